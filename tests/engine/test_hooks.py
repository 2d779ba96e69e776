"""Losses that are not finite, wrong batch sizes, numbered batches."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from gcvit_mm import UserError
from gcvit_mm.cli import runner as runners
from gcvit_mm.engine.monitoring import (
    CheckBatchSize,
    StopOnNonFinite,
    batch_size_advice,
    image_paths,
)
from gcvit_mm.engine.seeding import NumberedBatches, SeededItems
from support.running import ROOT
from support.small_run import Net, Noise


def sample(path):
    """A data sample as those of mmdet, mmseg and mmpretrain name their image."""
    return SimpleNamespace(img_path=path)


BATCH = dict(inputs=[torch.zeros(1)] * 2, data_samples=[sample('a/1.jpg'), sample('b/2.jpg')])


# ------------------------------------------------------------- non-finite losses
@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('kind', [torch.tensor, float])
def test_stops_at_the_first(value, kind, tmp_path):
    """Step, name of the loss, images and the last checkpoint stand in one line."""
    (tmp_path / 'iter_30.pth').touch()
    (tmp_path / 'iter_4.pth').touch()
    runner = SimpleNamespace(iter=41, work_dir=str(tmp_path))
    outputs = dict(loss_cls=torch.tensor(1.0), loss_bbox=kind(value), loss=kind(value))
    with pytest.raises(UserError) as caught:
        StopOnNonFinite().after_train_iter(runner, 0, BATCH, outputs)
    text = str(caught.value)
    assert text.startswith(f'step 42: loss_bbox is {value}; images: a/1.jpg, b/2.jpg;')
    assert f'{tmp_path}/iter_30.pth' in text and '\n' not in text


def test_only_losses_count():
    """Accuracies that are not a number (a batch without objects) do not stop a run."""
    runner = SimpleNamespace(iter=0, work_dir='nowhere')
    hook = StopOnNonFinite()
    hook.after_train_iter(runner, 0, BATCH, dict(loss=torch.tensor(2.0), acc=float('nan')))
    hook.after_train_iter(runner, 0, BATCH, None)
    with pytest.raises(UserError, match='images: unknown; start again from the beginning'):
        hook.after_train_iter(runner, 0, None, dict(loss=float('nan')))


def test_image_paths_of_any_batch():
    """Samples are found in dicts, lists and tuples, as the data sets of mm batch them."""
    assert image_paths(BATCH) == ['a/1.jpg', 'b/2.jpg']
    assert image_paths([dict(data_samples=sample('c.png')), (sample('d.png'),)]) == [
        'c.png',
        'd.png',
    ]
    assert image_paths(dict(inputs=torch.zeros(2), other=3, data_samples=None)) == []


class Explodes(Net):
    """Loses its loss in step 5."""

    def forward(self, inputs, data_samples=None, mode='loss'):
        self.steps = getattr(self, 'steps', 0) + 1
        losses = super().forward(inputs, data_samples, mode)
        return dict(loss=losses['loss'] * float('nan' if self.steps == 5 else 1))


def test_nothing_is_saved_after_it(tmp_path):
    """The run ends in step 5, whose checkpoint is not written; that of step 4 is whole."""
    runner = Runner(
        model=Explodes(),
        work_dir=str(tmp_path),
        train_dataloader=dict(
            dataset=Noise(),
            batch_size=4,
            sampler=dict(type='InfiniteSampler'),
            collate_fn=dict(type='pseudo_collate'),
        ),
        train_cfg=dict(by_epoch=False, max_iters=9),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01)),
        default_hooks=dict(
            checkpoint=dict(type='SafeCheckpointHook', interval=1, by_epoch=False),
            non_finite=dict(type='StopOnNonFinite'),
        ),
        experiment_name=f'run_{time.time_ns()}',
    )
    # that of step 4 may have been spoilt by the step itself
    with pytest.raises(
        UserError,
        match=r'step 5: loss is nan.*(go on with --resume \S+iter_[1-3]\.pth|start again)',
    ):
        runner.train()
    assert sorted(p.name for p in tmp_path.glob('*.pth')) == [f'iter_{i}.pth' for i in range(1, 5)]
    saved = torch.load(tmp_path / 'iter_4.pth', weights_only=False)['state_dict']
    assert all(torch.isfinite(value.float()).all() for value in saved.values())


# ------------------------------------------------------------- batch sizes
def config(batch=2, base=16, lr=1e-4, **changes):
    """The settings that the advice looks at."""
    return Config(
        dict(
            train_dataloader=dict(batch_size=batch),
            optim_wrapper=dict(
                optimizer=dict(lr=lr), accumulative_counts=changes.pop('accumulated', 1)
            ),
            auto_scale_lr=dict(base_batch_size=base, **changes),
        )
    )


def test_batch_size_advice():
    """The linear rule over processes and accumulation; none where the rate is right already."""
    assert batch_size_advice(config(), 8) == ''
    assert batch_size_advice(config(accumulated=2), 4) == ''
    assert batch_size_advice(config(enable=True), 3) == ''
    advice = batch_size_advice(config(), 1)
    assert advice.startswith('2 images a step (1 x 2 x 1 accumulated)')
    assert 'optim_wrapper.optimizer.lr=1.25e-05, or --auto-scale-lr' in advice
    advice = batch_size_advice(config(accumulated=4), 4)
    assert 'optim_wrapper.optimizer.lr=0.0002' in advice and '--auto-scale-lr' not in advice
    # mmengine scales by processes and batch alone: accumulation is left to be applied
    assert 'lr=0.0004' in batch_size_advice(config(accumulated=4, enable=True), 2)
    assert batch_size_advice(Config(dict(train_dataloader=dict(batch_size=2)))) == ''


def test_batch_size_is_said_once():
    """The hook warns at the start of training, and only then."""
    said = []
    logger = SimpleNamespace(warning=said.append)
    runner = SimpleNamespace(cfg=config(), model=torch.nn.Identity(), logger=logger)
    CheckBatchSize().before_train(runner)
    assert len(said) == 1 and '2 images a step' in said[0]
    runner.cfg = config(batch=16)
    CheckBatchSize().before_train(runner)
    assert len(said) == 1


@pytest.mark.parametrize('name', ['mask_gcvit_xxt_shapes', 'upernet_gcvit_xxt_shapes'])
def test_shipped_runs_have_the_hooks(name):
    """The runtime bases name them, and the demo's batch size is that of its learning rate."""
    pytest.importorskip('mmdet')
    pytest.importorskip('mmseg')
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    types = {hook.type for hook in cfg.default_hooks.values()}
    assert {'SafeCheckpointHook', 'StopOnNonFinite', 'CheckBatchSize', 'SeedEveryStep'} <= types
    assert batch_size_advice(cfg) == ''


def test_hooks_can_be_taken_away(monkeypatch):
    """NAME=None removes a hook of ours; what mmengine adds by itself is left to mmengine."""
    hooks = dict(seeds=None, logger=None, non_finite=dict(type='StopOnNonFinite'))
    cfg = Config(dict(launcher='none', default_hooks=hooks))
    monkeypatch.setattr(runners.Runner, 'from_cfg', lambda cfg: cfg)
    assert set(runners.build_runner(cfg).default_hooks) == {'logger', 'non_finite'}


# ------------------------------------------------------------- numbered batches
def test_batches_are_numbered_through():
    """Batches go on counting over passes of an iteration-based loop, and can be passed over."""
    batches = NumberedBatches([[3, 1], [2, 0]], loop=None)
    assert [(list(b), b.number) for b in batches] == [([3, 1], 0), ([2, 0], 1)]
    assert [b.number for b in batches] == [2, 3]
    batches = NumberedBatches([[3, 1], [2, 0]], loop=None)
    batches.skip(1)
    assert [(list(b), b.number) for b in batches] == [([2, 0], 1)]


def test_seeded_items_depend_on_the_number_only():
    """The same batch number draws the same, another one or another rank something else."""

    class Draws:
        def __getitem__(self, index):
            return index, np.random.rand()

    def load(number, rank=0):
        batches = NumberedBatches([[0, 1]], loop=None)
        batches.number = number
        return SeededItems(Draws(), 4, rank)(next(iter(batches)))

    assert load(7) == load(7)
    drawn = {load(7)[0][1], load(7)[1][1], load(8)[0][1], load(7, rank=1)[0][1]}
    assert len(drawn) == 4
    np.random.seed(1)
    plain = SeededItems(Draws(), 4, 0)([0])
    np.random.seed(1)
    assert plain == [(0, np.random.rand())]  # indices without a number: nothing is seeded
