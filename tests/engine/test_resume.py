"""Checkpoints are whole or not there, and a resumed run is the run without a break."""

import errno
import os
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import OPTIMIZERS
from mmengine.runner import Runner
from torch import nn

from gcvit_mm import CheckpointError, UserError
from gcvit_mm.compat import cpu_has_fused
from gcvit_mm.engine import SafeCheckpointHook, saving, whole_files
from gcvit_mm.engine.resuming import checkpoint_flaw
from gcvit_mm.engine.whole_files import write_whole
from support.small_run import Net, Noise, change, choose, load, train


# ------------------------------------------------------------- the same run again
@pytest.mark.parametrize(
    'loop, workers, seed',
    [('iterations', 0, None), ('iterations', 2, 7), ('epochs', 0, 7), ('epochs', 1, None)],
)
def test_resumed_run_equals_the_whole_one(loop, workers, seed, tmp_path):
    """Broken off after step 7, resumed from step 6: losses 7 to 12 are those without a break."""
    first = train(tmp_path, loop, workers, stop=7, seed=seed)
    resumed = train(tmp_path, loop, workers, resume=True, seed=seed)
    assert sorted(first) == list(range(1, 8)) and sorted(resumed) == list(range(7, 13))
    assert resumed[7] == pytest.approx(first[7], abs=1e-5)
    # The whole run must start from the same weights and the same seed.
    saved = load(tmp_path / ('epoch_1.pth' if loop == 'epochs' else 'iter_3.pth'))
    whole = train(tmp_path / 'whole', loop, workers, seed=saved['meta']['seed'])
    assert {k: whole[k] for k in first} == pytest.approx(first, abs=1e-5)
    assert {k: whole[k] for k in resumed} == pytest.approx(resumed, abs=1e-5)
    logs = [path.read_text() for path in tmp_path.glob('*/*.log')]
    assert logs and not any('not defined in message_hub' in log for log in logs)


def test_workers_do_not_matter(tmp_path):
    """Augmentations are drawn for the step, whichever worker loads it."""
    runs = [train(tmp_path / str(n), workers=n, seed=3) for n in (0, 2)]
    assert runs[0] == pytest.approx(runs[1], abs=1e-6)
    assert len(set(runs[0].values())) == 12


def test_without_the_hook_it_differs(tmp_path):
    """The comparison above can fail: without SeedEveryStep the resumed run is another one."""
    off = dict(hooks=dict(seeds=None), seed=7)
    first = train(tmp_path, stop=7, **off)
    resumed = train(tmp_path, resume=True, **off)
    assert abs(first[7] - resumed[7]) > 1e-4


class ConvNet(BaseModel):
    """A convolution whose weight lies channels-last, as in the backbones."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 2).to(memory_format=torch.channels_last)

    def forward(self, inputs, data_samples=None, mode='loss'):
        maps = torch.stack(list(inputs)).view(-1, 1, 2, 2) * torch.arange(8).view(2, 2, 2) / 8
        return dict(loss=(self.conv(maps) ** 2).mean())


@pytest.mark.parametrize('optimizer', [dict(type='AdamW'), dict(type='SGD', momentum=0.9)])
def test_order_in_memory_does_not_matter(optimizer, tmp_path):
    """Moments and waiting gradients of sharded training are contiguous: a fused step reads both."""
    if not cpu_has_fused(optimizer['type']):
        pytest.skip('this torch has no fused optimizers on CPUs')

    def train_on(work_dir, **options):
        wrapper = dict(optimizer=dict(optimizer, lr=0.01, fused=True), accumulative_counts=2)
        torch.manual_seed(0)
        return train(work_dir, model=ConvNet(), seed=3, optim_wrapper=wrapper, **options)

    def lay_out(content):
        order = content['state_dict']['conv.weight'].stride()
        moments = [s for state in content['optimizer']['state'].values() for s in state.values()]
        found = [*moments, *content['gradients'].values()]
        found = [x for x in found if torch.is_tensor(x) and x.dim() == 4]
        assert len(found) >= 2 and {x.stride() for x in found} == {order}
        for x in found:
            x.data = x.contiguous()
            assert x.stride() != order

    whole = train_on(tmp_path / 'whole')
    train_on(tmp_path / 'run', stop=4)
    change(tmp_path / 'run/iter_3.pth', lay_out)
    resumed = train_on(tmp_path / 'run', resume=True)
    assert resumed == pytest.approx({step: whole[step] for step in range(4, 13)}, abs=1e-6)


class PairSampler(torch.utils.data.BatchSampler):
    """A batch sampler that mmengine cannot advance by itself."""


def test_other_batch_samplers(tmp_path):
    """Batch samplers as mmdet has them (by aspect ratio) are advanced without loading."""
    loader = dict(batch_sampler=dict(type=PairSampler, drop_last=True))
    first = train(tmp_path, stop=7, seed=7, loader=loader)
    resumed = train(tmp_path, resume=True, seed=7, loader=loader)
    assert resumed[7] == pytest.approx(first[7], abs=1e-5)


def test_ranks_draw_different_numbers(monkeypatch):
    """The seed of a step is that of its rank, and the same twice."""
    from gcvit_mm.engine.seeding import seed_all

    drawn = []
    for rank in (0, 1, 0):
        seed_all(5, rank, 10, 1)
        drawn.append((random.random(), np.random.rand(), float(torch.rand(()))))
    assert drawn[0] == drawn[2]
    assert all(a != b for a, b in zip(drawn[0], drawn[1]))


# ------------------------------------------------------------- whole checkpoints
@pytest.fixture
def trained(tmp_path):
    """A work dir with the checkpoints of steps 3, 6, 9 and 12."""
    train(tmp_path, seed=1)
    return tmp_path


def test_last_is_taken(trained):
    """The file that last_checkpoint names; the newest where that is lost, empty or moved."""
    assert choose(trained) == ('iter_12.pth', '')
    (trained / 'last_checkpoint').write_text(str(trained / 'iter_6.pth'))
    assert choose(trained)[0] == 'iter_6.pth'
    (trained / 'last_checkpoint').write_text('')
    assert choose(trained)[0] == 'iter_12.pth'
    (trained / 'last_checkpoint').unlink()
    assert choose(trained)[0] == 'iter_12.pth'
    moved = trained.parent / 'moved'
    shutil.copytree(trained, moved)
    (moved / 'last_checkpoint').write_text('/gone/away/iter_9.pth')
    assert choose(moved) == ('iter_9.pth', '')


@pytest.mark.parametrize('kept', [0.0, 0.3, 0.99])
def test_cut_off_file_is_passed_over(trained, kept):
    """A truncated file is named, and the one before it taken."""
    path = trained / 'iter_12.pth'
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    chosen, said = choose(trained)
    assert chosen == 'iter_9.pth'
    assert 'iter_12.pth is cut off' in said and 'iter_9.pth' in said
    resumed = train(trained, resume=True, seed=1)
    assert sorted(resumed) == [10, 11, 12]


def test_flipped_byte_is_found(trained):
    """A file of the right length whose weights are not those that were written."""
    path = trained / 'iter_12.pth'
    weight = load(path)['state_dict']['layers.0.weight'].numpy().tobytes()
    data = bytearray(path.read_bytes())
    data[data.index(weight)] ^= 1
    path.write_bytes(bytes(data))
    assert load(path)  # torch does not notice
    assert choose(trained)[0] == 'iter_9.pth' and 'is damaged' in choose(trained)[1]


def test_foreign_files_are_passed_over(trained, tmp_path_factory):
    """Bare weights, other programs' files, and checkpoints of another model."""
    torch.save(dict(state_dict=Net().state_dict()), trained / 'iter_12.pth')
    assert 'iter_12.pth holds no meta' in choose(trained)[1]
    shutil.make_archive(str(trained / 'other'), 'zip', trained, 'last_checkpoint')
    (trained / 'other.zip').rename(trained / 'iter_12.pth')
    assert 'iter_12.pth is no checkpoint' in choose(trained)[1]
    stored = load(trained / 'iter_9.pth')
    stored['state_dict'].pop('layers.3.bias')
    torch.save(stored, trained / 'iter_12.pth')
    assert 'iter_12.pth is of another model (it has no layers.3.bias)' in choose(trained)[1]
    assert choose(trained)[0] == 'iter_9.pth'


def test_reading_strings_runs_nothing(tmp_path):
    """A file that would run a command when it is loaded is only looked at."""

    class Bad:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'ran'),)

    torch.save(dict(meta=Bad(), state_dict={}, message_hub={}), tmp_path / 'iter_1.pth')
    assert 'holds no optimizer' in checkpoint_flaw(str(tmp_path / 'iter_1.pth'))
    assert not (tmp_path / 'ran').exists()


def test_nothing_to_go_on_from(trained, tmp_path_factory):
    """No checkpoint at all starts over and says so; only damaged ones is an error."""
    empty = tmp_path_factory.mktemp('empty')
    chosen, said = choose(empty)
    assert chosen is None and f'no checkpoint in {empty} yet' in said
    assert sorted(train(empty, resume=True, seed=1)) == list(range(1, 13))
    for path in trained.glob('iter_*.pth'):
        path.write_bytes(b'x')
    with pytest.raises(CheckpointError, match='nothing to resume from .*iter_12.pth is cut off'):
        train(trained, resume=True, seed=1)


def test_named_checkpoint_must_be_whole(trained):
    """--resume FILE with a damaged file is an error; another file is not taken instead."""
    (trained / 'iter_6.pth').write_bytes(b'x' * 100)
    with pytest.raises(CheckpointError, match='iter_6.pth is cut off'):
        train(trained, resume=True, seed=1, load_from=str(trained / 'iter_6.pth'))
    named = train(trained, resume=True, seed=1, load_from=str(trained / 'iter_9.pth'))
    assert sorted(named) == [10, 11, 12]


# ------------------------------------------------------------- writing
class FullDisk:
    """Stands in for os.fsync: the disk fills up after some files."""

    def __init__(self, monkeypatch, files):
        self.left, self.fsync = files, os.fsync
        monkeypatch.setattr(os, 'fsync', self)

    def __call__(self, handle):
        if not os.path.isdir(f'/proc/self/fd/{handle}'):  # folders take no space
            self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.fsync(handle)


def test_write_whole_replaces_or_leaves(tmp_path, monkeypatch):
    """A file is replaced when the new one is whole; a failure leaves the old one and no rest."""
    path = tmp_path / 'a' / 'file.pth'
    write_whole(b'old', str(path))
    write_whole(b'newer', str(path))
    assert path.read_bytes() == b'newer'
    FullDisk(monkeypatch, 0)
    with pytest.raises(OSError, match='No space left'):
        write_whole(b'newest', str(path))
    assert path.read_bytes() == b'newer' and os.listdir(path.parent) == ['file.pth']


@pytest.mark.skipif(not Path('/proc/self/fd').is_dir(), reason='tells folders from files there')
@pytest.mark.parametrize('code', [errno.EINVAL, errno.ENOTSUP, errno.EBADF])
def test_folders_that_cannot_be_forced(code, tmp_path, monkeypatch):
    """A file system that knows no fsync of folders is no reason to lose a checkpoint."""

    def sync(handle):
        if os.path.isdir(f'/proc/self/fd/{handle}'):
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, 'fsync', sync)
    write_whole(b'old', str(tmp_path / 'file.pth'))
    write_whole(b'new', str(tmp_path / 'file.pth'))
    assert (tmp_path / 'file.pth').read_bytes() == b'new'
    assert sorted(train(tmp_path / 'run')) == list(range(1, 13))
    assert (tmp_path / 'run/iter_12.pth').exists()


def test_name_never_stands_for_a_part(tmp_path, monkeypatch):
    """While data is being written the name still stands for the old file."""
    path, seen, sync = tmp_path / 'file.pth', [], os.fsync
    write_whole(b'old', str(path))

    def look(handle):
        seen.append(path.read_bytes())
        sync(handle)

    monkeypatch.setattr(os, 'fsync', look)
    write_whole(b'new' * 1000, str(path))
    assert seen[0] == b'old' and path.read_bytes() == b'new' * 1000


@pytest.mark.skipif(not Path('/proc/self/fd').is_dir(), reason='tells folders from files there')
@pytest.mark.parametrize('keep', [1, 3])
def test_full_disk(tmp_path, monkeypatch, keep):
    """The third save fails: one line, and what was saved before is whole and goes on."""
    hooks = dict(
        checkpoint=dict(type='SafeCheckpointHook', interval=3, by_epoch=False, max_keep_ckpts=keep)
    )
    whole = train(tmp_path / 'whole', seed=1, hooks=hooks)
    with monkeypatch.context() as patch:
        FullDisk(patch, 5)  # run.json, two checkpoints and their names in last_checkpoint
        with pytest.raises(UserError, match='No space left on device.*iter_6.pth is untouched'):
            train(tmp_path, seed=1, hooks=hooks)
    left = sorted(p.name for p in tmp_path.glob('*.*') if p.suffix in ('.pth', '.tmp'))
    assert left == (['iter_6.pth'] if keep == 1 else ['iter_3.pth', 'iter_6.pth'])
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_6.pth')
    resumed = train(tmp_path, seed=1, resume=True, hooks=hooks)
    assert resumed == pytest.approx({k: whole[k] for k in range(7, 13)}, abs=1e-5)
    assert len(list(tmp_path.glob('iter_*.pth'))) == min(keep, 4)


def test_old_best_is_removed_after_the_new(tmp_path, monkeypatch):
    """The best checkpoint so far stays until the next best is saved."""
    hook = SafeCheckpointHook(interval=3, by_epoch=False, save_best='acc', max_keep_ckpts=1)
    runner = Runner(
        model=Net(),
        work_dir=str(tmp_path),
        train_dataloader=dict(dataset=Noise(), batch_size=4, sampler=dict(type='InfiniteSampler')),
        train_cfg=dict(by_epoch=False, max_iters=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=hook, logger=None),
        experiment_name=f'best_{time.time_ns()}',
    )
    runner.train()
    hook._save_best_checkpoint(runner, dict(acc=0.1))
    assert [p.name for p in tmp_path.glob('best_*')] == ['best_acc_iter_1.pth']
    runner.train_loop._iter = 2
    with monkeypatch.context() as patch:
        FullDisk(patch, 0)
        with pytest.raises(UserError, match='No space left'):
            hook._save_best_checkpoint(runner, dict(acc=0.2))
    assert [p.name for p in tmp_path.glob('best_*')] == ['best_acc_iter_1.pth']
    hook.best_ckpt_path = str(tmp_path / 'best_acc_iter_1.pth')
    runner.message_hub.update_info('best_score', 0.1)
    hook.file_backend.waiting.clear()
    hook._save_best_checkpoint(runner, dict(acc=0.3))
    whole_files.BACKGROUND.finish()
    assert [p.name for p in tmp_path.glob('best_*')] == ['best_acc_iter_2.pth']


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    """A rank whose own loss is finite does not save what another one has spoilt."""

    class Spoil(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 5:
                runner.model.layers[0].weight.data[0, 0] = float('nan')

    with pytest.raises(UserError, match=r'step 6: layers.0.weight .*iter_3.pth'):
        train(tmp_path, hooks=dict(spoil=Spoil()))
    assert [p.name for p in tmp_path.glob('iter_*')] == ['iter_3.pth']


def test_other_backends_are_left_alone():
    """An out_dir elsewhere, or a backend that is asked for, is not overruled."""
    assert SafeCheckpointHook().backend_args == dict(backend='whole_files')
    assert SafeCheckpointHook(out_dir='s3://bucket').backend_args is None
    asked = dict(backend='petrel')
    assert SafeCheckpointHook(backend_args=asked).backend_args == asked


def test_last_checkpoint_names_what_is_there(tmp_path, monkeypatch):
    """A run that is killed at any moment has no pointer to a file that it has not written yet."""
    pointer, written = tmp_path / 'last_checkpoint', []

    def write(data, path):
        name = Path(path).name
        if name.startswith('iter_'):
            assert not pointer.exists() or pointer.read_text() != str(path)
        else:
            assert Path(data.decode()).is_file()
        written.append(name)
        write_whole(data, path)

    for module in (whole_files, saving):
        monkeypatch.setattr(module, 'write_whole', write)
    train(tmp_path)
    assert written == [n for i in (3, 6, 9, 12) for n in (f'iter_{i}.pth', 'last_checkpoint')]


def test_newest_counts_where_its_pointer_was_not_written(tmp_path):
    """Killed between the two: it is the run's own, and newer than the pointer. One that somebody
    has pointed back stays where it points."""
    run, killed = tmp_path / 'run', tmp_path / 'killed'
    train(run, seed=1)
    (run / 'iter_12.pth').unlink()
    (run / 'last_checkpoint').write_text(str(run / 'iter_6.pth'))
    shutil.copytree(run, killed)
    before = (killed / 'iter_9.pth').stat().st_mtime - 1
    os.utime(killed / 'last_checkpoint', (before, before))
    assert sorted(train(killed, seed=1, resume=True)) == [10, 11, 12]
    assert sorted(train(run, seed=1, resume=True)) == [7, 8, 9, 10, 11, 12]


@pytest.mark.parametrize(
    'optimizer',
    [
        dict(type='SGD'),
        dict(type='SGD', momentum=0.9, nesterov=True),
        dict(type='Adam', amsgrad=True),
        dict(type='RMSprop', momentum=0.5, centered=True),
        dict(type='Adagrad'),
        dict(type='NAdam'),
        dict(type='Rprop'),
        dict(type='TorchAdafactor'),  # knows other things of matrices than of vectors
    ],
    ids=lambda options: ' '.join(map(str, options.values())),
)
def test_other_optimizers_go_on(optimizer, tmp_path):
    """Whatever they know of weights: the losses are those without a break."""
    if optimizer['type'] == 'TorchAdafactor':
        if not hasattr(torch.optim, 'Adafactor'):
            pytest.skip('this torch has no Adafactor')
        OPTIMIZERS.register_module('TorchAdafactor', module=torch.optim.Adafactor, force=True)
    options = dict(seed=1, optim_wrapper=dict(optimizer=dict(optimizer, lr=0.01)))
    whole = train(tmp_path / 'whole', **options)
    train(tmp_path / 'work', stop=7, **options)
    resumed = train(tmp_path / 'work', resume=True, **options)
    assert resumed == pytest.approx({step: whole[step] for step in range(7, 13)}, abs=1e-6)
