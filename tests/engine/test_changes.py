"""What a config changes in a run that goes on; and what to resume from after a loss was lost."""

import re
import time

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from gcvit_mm import CheckpointError, UserError
from gcvit_mm.engine.whole_files import BACKGROUND
from support.small_run import Net, Noise, load

WARM = dict(type='LinearLR', start_factor=0.1, end=4, by_epoch=False)
COSINE = dict(type='CosineAnnealingLR', begin=4, end=12, eta_min=0.001, by_epoch=False)


class Rates(Hook):
    """Keeps the learning rates that steps were made with; may break off."""

    def __init__(self, stop):
        self.rates, self.stop = {}, stop

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.stop:
            raise KeyboardInterrupt
        self.rates[runner.iter + 1] = [g['lr'] for g in runner.optim_wrapper.param_groups]


def train(work_dir, stop=None, lr=0.05, batch=4, schedulers=(WARM, COSINE), **changes):
    """Train twelve steps; return the learning rates of each, and the warnings."""
    hook, said = Rates(stop), []
    torch.manual_seed(0)
    wrapper = dict(optimizer=dict(type='AdamW', lr=lr, **changes.pop('optimizer', {})))
    wrapper.update(changes.pop('wrapper', {}))
    runner = Runner(
        model=changes.pop('model', None) or Net(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=Noise(),
            batch_size=batch,
            num_workers=0,
            sampler=dict(type='InfiniteSampler'),
            collate_fn=dict(type='pseudo_collate'),
        ),
        train_cfg=dict(by_epoch=False, max_iters=changes.pop('end', 12)),
        optim_wrapper=wrapper,
        param_scheduler=list(schedulers) or None,
        default_hooks=dict(
            checkpoint=dict(
                type='SafeCheckpointHook', interval=changes.pop('interval', 3), by_epoch=False
            ),
            non_finite=dict(type='StopOnNonFinite'),
            logger=None,
        ),
        custom_hooks=[hook],
        randomness=dict(seed=1),
        experiment_name=f'run_{time.time_ns()}',
        log_level='WARNING',
        **changes,
    )
    runner.logger.warning = lambda text, *args, **kwargs: said.append(str(text))
    try:
        runner.train()
    except KeyboardInterrupt:
        pass
    return hook.rates, ' '.join(line for line in said if line.startswith('--resume'))


# ------------------------------------------------------------- learning rates
@pytest.mark.parametrize('stop', [3, 6, 9])
@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('scale', [0.1, 4.0])
def test_rate_of_the_config_is_applied(stop, groups, scale, tmp_path):
    """From where it goes on, the rates are those of a run that had the new one all along."""
    wrapper = {}
    if groups == 2:
        wrapper = dict(paramwise_cfg=dict(custom_keys={'layers.0': dict(lr_mult=1.0)}))
    train(tmp_path, stop=stop, wrapper=wrapper)
    rates, said = train(tmp_path, lr=0.05 * scale, resume=True, wrapper=wrapper)
    whole, _ = train(tmp_path / 'whole', lr=0.05 * scale, wrapper=wrapper)
    assert sorted(rates) == list(range(stop + 1, 13))
    for step, rate in rates.items():
        assert rate == pytest.approx(whole[step], rel=1e-6), step
    assert said == (f'--resume: the learning rate 0.05 of the checkpoint is now {0.05 * scale:g}')
    saved = load(tmp_path / 'iter_12.pth')
    assert saved['optimizer']['param_groups'][0]['initial_lr'] == pytest.approx(0.05 * scale)
    again, said = train(tmp_path, lr=0.05 * scale, resume=True, end=13, wrapper=wrapper)
    assert list(again) == [13] and not said


def test_unchanged_rates_stay(tmp_path):
    """Without a change nothing is said, and the rates are those without a break."""
    train(tmp_path, stop=6)
    rates, said = train(tmp_path, resume=True)
    whole, _ = train(tmp_path / 'whole')
    assert rates == {step: whole[step] for step in range(7, 13)} and not said


@pytest.mark.parametrize('schedulers', [(WARM,), (WARM, COSINE)])
def test_a_rate_that_no_scheduler_has_set(schedulers, tmp_path):
    """A checkpoint whose rate is another than its schedule's: nothing would have been trained."""
    train(tmp_path, stop=7, schedulers=schedulers)
    BACKGROUND.finish()
    path = tmp_path / 'iter_6.pth'
    content = load(path)
    content['optimizer']['param_groups'][0]['lr'] = 0
    torch.save(content, path)
    _, said = train(tmp_path, resume=True, schedulers=schedulers)
    assert re.search(r'trains on with a learning rate of 0, where .* have set 0\.0\d', said)


def test_rate_without_schedulers(tmp_path):
    """A constant rate has no initial one."""
    train(tmp_path, stop=6, schedulers=())
    rates, _ = train(tmp_path, resume=True, lr=0.005, schedulers=())
    assert {rate for step in rates.values() for rate in step} == {0.005}


def test_rate_that_waits_for_a_metric(tmp_path):
    """A scheduler that has no first values of its own."""
    plateau = dict(type='ReduceOnPlateauLR', monitor='acc')
    train(tmp_path, stop=6, schedulers=(plateau,))
    rates, _ = train(tmp_path, resume=True, lr=0.005, schedulers=(plateau,))
    assert {rate for step in rates.values() for rate in step} == {0.005}


def test_automatic_scaling_is_applied(tmp_path):
    """--auto-scale-lr of a run that was begun without it."""
    train(tmp_path, stop=6)
    scaling = dict(enable=True, base_batch_size=16)
    rates, said = train(tmp_path, resume=True, auto_scale_lr=scaling)
    whole, _ = train(tmp_path / 'whole', lr=0.05 / 4)
    assert rates[7] == pytest.approx(whole[7]) and '0.05 of the checkpoint is now 0.0125' in said


# ------------------------------------------------------------- what is named
def test_other_changes_are_named(tmp_path):
    """Batch size, settings of the optimizer and of schedulers: one line each."""
    train(tmp_path, stop=6)
    longer = dict(COSINE, end=24)
    _, said = train(
        tmp_path, resume=True, batch=2, schedulers=(WARM, longer), optimizer=dict(weight_decay=0.3)
    )
    assert '2 images a step (1 x 2 x 1 accumulated) instead of 4 (1 x 4 x 1 accumulated)' in said
    assert 'weight_decay=0.01 (config: 0.3)' in said
    assert 'param_scheduler.1.end=12 (config: 24)' in said
    assert said.count('--resume') == 2


def test_other_schedulers_are_refused(tmp_path):
    """mmengine would let the one that is missing begin anew."""
    train(tmp_path, stop=6)
    with pytest.raises(CheckpointError, match='iter_6.pth holds 2 param_schedulers, the config 1'):
        train(tmp_path, resume=True, schedulers=(WARM,))


def test_end_before_the_checkpoint_is_refused(tmp_path):
    """A run that would train nothing says so."""
    train(tmp_path)
    with pytest.raises(CheckpointError, match='iter 12, behind train_cfg.max_iters=8'):
        train(tmp_path, resume=True, end=8)


# ------------------------------------------------------------- after a loss was lost
class Diverges(Net):
    """Its loss grows without bound where the learning rate is too large."""

    def forward(self, inputs, data_samples=None, mode='loss'):
        x = torch.stack(list(inputs))
        return dict(loss=(self.layers[0](x) ** 2).mean() + 0 * self.layers(x).sum())


@pytest.mark.parametrize('late', [False, True])
def test_advice_works_when_followed(late, tmp_path):
    """The checkpoint that the line names, with a lower rate, trains to the end.

    Checkpoints of later steps are whole, but their weights are lost.
    """
    options = dict(
        model=Diverges(),
        schedulers=(),
        interval=1,
        wrapper=dict(optimizer=dict(type='SGD', lr=3.0)),
    )
    if late:  # ten good steps first
        good = dict(options, wrapper=dict(optimizer=dict(type='SGD', lr=0.01)))
        train(tmp_path, stop=10, end=60, **good)
        options.update(model=Diverges(), resume=True)
    with pytest.raises(UserError) as caught:
        train(tmp_path, end=60, **options)
    text = str(caught.value)
    lower = dict(options, wrapper=dict(optimizer=dict(type='SGD', lr=0.01)), model=Diverges())
    lower.pop('resume', None)
    assert len(list(tmp_path.glob('iter_*.pth'))) > 12
    if not late:  # the very first steps were too large
        assert re.search(r'beginning, in another --work-dir|iter_[12]\.pth', text)
        return
    path = re.search(r'go on with --resume (\S+iter_(\d+)\.pth) ', text)
    assert 8 <= int(path[2]) <= 12
    last = max(tmp_path.glob('iter_*.pth'), key=lambda path: path.stat().st_mtime)
    with pytest.raises(UserError):  # the newest is lost indeed
        train(tmp_path, end=60, resume=True, load_from=str(last), **lower)
    rates, _ = train(tmp_path, end=60, resume=True, load_from=path[1], **lower)
    assert max(rates) == 60


def test_spoilt_optimizers_are_not_saved(tmp_path):
    """Weights may be finite where the state of the optimizer is not, and never move again."""

    class Spoil(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 5:
                next(iter(runner.optim_wrapper.optimizer.state.values()))['exp_avg_sq'].fill_(
                    float('inf')
                )

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rates, 'after_train_iter', Spoil.after_train_iter)
        with pytest.raises(UserError, match='the state of the optimizer is no longer finite'):
            train(tmp_path)
    assert [path.name for path in tmp_path.glob('iter_*')] == ['iter_3.pth']


# ------------------------------------------------------------- states of optimizers
class Frozen(Net):
    """The first layer does not learn; mmengine gives its weights to the optimizer all the same."""

    def __init__(self):
        super().__init__()
        self.layers[0].requires_grad_(False)


@pytest.mark.parametrize('model', [Net, Frozen])
def test_weights_that_the_optimizer_does_not_know(model, tmp_path):
    """Frozen ones need no state; of others it is said that they start anew."""
    train(tmp_path, model=model(), end=6)
    assert train(tmp_path, model=model(), end=9, resume=True)[1] == ''
    path = tmp_path / 'iter_9.pth'
    content = load(path)
    content['optimizer']['state'].pop(5)
    torch.save(content, path)
    said = train(tmp_path, model=model(), resume=True)[1]
    assert f'the optimizer of {path} knows nothing of 1 weights' in said
