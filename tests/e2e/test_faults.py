"""Training that is killed at random moments, and processes that torchrun starts again.

The trained program is this file itself, as a script or as a module that a config imports.
"""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS, MODELS
from mmengine.runner import Runner
from support.running import ENV, ROOT, one_line_error
from test_resume import Net, Noise, load, train
from torch import nn

from gcvit_mm import CheckpointError, UserError
from gcvit_mm.cli import check_restarts, check_strategy
from gcvit_mm.engine import SafeCheckpointHook
from gcvit_mm.engine.resuming import numbered_checkpoints
from gcvit_mm.engine.saving import UNFINISHED

STEPS = 40
PATHS = ':'.join(str(ROOT / f) for f in ('', 'tests', 'tests/e2e', 'tests/engine'))


class HeavyNet(Net):
    """A checkpoint of 24 MB, which takes a while to write."""

    def __init__(self):
        super().__init__()
        self.ballast = nn.Parameter(torch.randn(2_000_000))

    def forward(self, inputs, data_samples=None, mode='loss'):
        loss = super().forward(inputs, data_samples, mode)['loss']
        return dict(loss=loss + self.ballast.square().mean())


class WriteLosses(Hook):
    """Appends step and loss to a file, whatever becomes of the process."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        with open(f'{runner.work_dir}/losses.txt', 'a') as file:
            print(runner.iter + 1, f'{outputs["loss"].item():.9f}', file=file, flush=True)
        time.sleep(0.01)


def train_heavy(work_dir, interval):
    """Train, going on from what is there; what the processes below do."""
    torch.manual_seed(0)
    Runner(
        model=HeavyNet(),
        work_dir=work_dir,
        train_dataloader=dict(
            dataset=Noise(),
            batch_size=4,
            sampler=dict(type='InfiniteSampler'),
            collate_fn=dict(type='pseudo_collate'),
        ),
        train_cfg=dict(by_epoch=False, max_iters=STEPS),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01)),
        param_scheduler=[dict(type='LinearLR', start_factor=0.1, end=STEPS, by_epoch=False)],
        default_hooks=dict(
            checkpoint=dict(
                type='SafeCheckpointHook', interval=interval, by_epoch=False, max_keep_ckpts=2
            ),
            seeds=dict(type='SeedEveryStep'),
            logger=None,
        ),
        custom_hooks=[WriteLosses()],
        resume=True,
        randomness=dict(seed=11),
        experiment_name=f'run_{time.time_ns()}',
        log_level='WARNING',
    ).train()


def curve(work_dir):
    """Steps and losses in the order they were trained; a last line that was cut off is dropped."""
    path = work_dir / 'losses.txt'
    text = path.read_text() if path.exists() else ''
    rows = [line.split() for line in text[: text.rfind('\n') + 1].splitlines()]
    return [(int(step), float(loss)) for step, loss in rows]


def start_heavy(work_dir, interval):
    """Start a process of this file."""
    work_dir.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, __file__, str(work_dir), str(interval)],
        cwd=ROOT,
        env=dict(ENV, PYTHONPATH=PATHS),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def moments(process, what):
    """Wait for something that a running process is to do: ends the test if it does not."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        yield
        assert not ended, f'ended before {what}:\n{process.communicate()[0][-4000:]}'
        time.sleep(0.001)
    pytest.fail(f'no {what} within five minutes')


def stop_while_writing(process, unfinished):
    """Stop a process while a checkpoint is being written."""
    for _ in moments(process, 'checkpoint'):
        if unfinished.exists():
            process.send_signal(signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            if unfinished.exists():
                return
            process.send_signal(signal.SIGCONT)  # it was just done


def test_killed_at_random_moments(tmp_path):
    """Five kills, three of them while a checkpoint is being written: the curve stays the same."""
    chance = random.Random(0)
    whole = start_heavy(tmp_path / 'whole', STEPS)
    assert whole.wait(300) == 0, whole.communicate()[0][-4000:]
    expected = dict(curve(tmp_path / 'whole'))
    assert list(expected) == list(range(1, STEPS + 1))
    assert len(set(expected.values())) == STEPS

    work_dir = tmp_path / 'killed'
    unfinished = work_dir / UNFINISHED
    for writing in (True, False, True, False, True):
        before = curve(work_dir)
        saved = numbered_checkpoints(str(work_dir))
        if writing and unfinished.exists():
            unfinished.unlink()  # what the last kill left would be taken for new
        process = start_heavy(work_dir, 1)
        try:
            steps = chance.randint(1, 5)
            for _ in moments(process, f'{steps} steps'):
                if len(curve(work_dir)) >= len(before) + steps:
                    break
            if writing:
                stop_while_writing(process, unfinished)
            else:
                time.sleep(chance.uniform(0, 0.05))
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert unfinished.exists() or not writing
        # It went on from the last checkpoint there was.
        step = int(saved[0].split('iter_')[1][:-4]) if saved else 0
        assert curve(work_dir)[len(before)][0] == step + 1

    process = start_heavy(work_dir, 1)
    assert process.wait(300) == 0, process.communicate()[0][-4000:]
    found = curve(work_dir)
    assert {step for step, _ in found} == set(expected)
    # Steps that were trained twice, too.
    assert [loss for _, loss in found] == pytest.approx([expected[s] for s, _ in found], abs=1e-5)
    last = f'iter_{STEPS}.pth'
    weights, others = (load(tmp_path / f / last)['state_dict'] for f in ('whole', 'killed'))
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, atol=1e-5, rtol=1e-5)
    assert not unfinished.exists() and len(numbered_checkpoints(str(work_dir))) == 2


# ------------------------------------------------------------- torchrun starts again
MODELS.register_module('SmallNet', module=Net, force=True)
DATASETS.register_module('Noise', module=Noise, force=True)


@HOOKS.register_module(force=True)
class DiesOnce(Hook):
    """The last rank kills itself after some steps, each time but the first one excepted.

    Args:
        steps: The steps.
    """

    def __init__(self, steps):
        self.steps = steps

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        step = runner.iter + 1
        marker = f'{runner.work_dir}/died_{step}'
        last = get_rank() == get_world_size() - 1
        if last and step in self.steps and not os.path.exists(marker):
            open(marker, 'w').close()
            os.kill(os.getpid(), signal.SIGKILL)


CONFIG = """
custom_imports = dict(imports=['test_faults'])
model = dict(type='SmallNet')
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    dataset=dict(type='Noise'),
    sampler=dict(type='InfiniteSampler'),
    collate_fn=dict(type='pseudo_collate'),
)
train_cfg = dict(by_epoch=False, max_iters=12)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.05))
default_hooks = dict(
    checkpoint=dict(type='SafeCheckpointHook', interval=3, by_epoch=False),
    seeds=dict(type='SeedEveryStep'),
    logger=dict(type='LoggerHook', interval=1),
    dies=dict(type='DiesOnce', steps=STEPS),
)
log_processor = dict(by_epoch=False, window_size=1, num_digits=7)
randomness = dict(seed=5)
"""


def write_config(folder, steps=()):
    """A small net that trains for 12 steps; the last rank dies once after each of ``steps``."""
    path = folder / f'small_{"_".join(map(str, steps))}.py'
    path.write_text(CONFIG.replace('STEPS', repr(list(steps))))
    return path


def torchrun(config, work_dir, restarts):
    """Start two processes by torchrun itself."""
    words = ['--standalone', '--nproc_per_node=2', f'--max-restarts={restarts}']
    words += [str(ROOT / 'tools/train.py'), str(config), '--launcher', 'pytorch']
    return subprocess.Popen(
        [sys.executable, '-m', 'torch.distributed.run', *words, '--work-dir', str(work_dir)],
        cwd=ROOT,
        env=dict(ENV, PYTHONPATH=PATHS),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process, timeout):
    """What a process and its children printed, once all have ended; none of them stays."""
    try:
        return process.communicate(timeout=timeout)[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def attempts(output):
    """Losses by step, one dict for every time that training was started."""
    rows = re.findall(r'Iter\(train\)\s*\[\s*(\d+)/\d+\].*?\bloss: ([\d.]+)', output)
    found, last = [], STEPS
    for step, loss in rows:
        if int(step) <= last:
            found.append({})
        last = int(step)
        found[-1][last] = float(loss)
    return found


def test_torchrun_restarts(tmp_path):
    """A rank killed twice, before and after the first checkpoint: the curve stays the same."""
    whole = torchrun(write_config(tmp_path), tmp_path / 'whole', 0)
    (expected,) = attempts(finish(whole, 300))
    assert whole.returncode == 0 and list(expected) == list(range(1, 13))

    process = torchrun(write_config(tmp_path, (2, 8)), tmp_path / 'work', 2)
    output = finish(process, 300)
    assert process.returncode == 0, output[-4000:]
    found = attempts(output)
    assert [min(part) for part in found] == [1, 1, 7] and max(found[2]) == 12
    for part in found:
        assert part == pytest.approx({step: expected[step] for step in part}, abs=1e-5)


def test_one_rank_is_killed(tmp_path):
    """Without restarts the other process ends within a minute; rank and signal are named."""
    process = torchrun(write_config(tmp_path, (2,)), tmp_path / 'work', 0)
    try:
        for _ in moments(process, 'death of rank 1'):
            if (tmp_path / 'work/died_2').exists():
                break
    finally:
        output = finish(process, 60)
    assert process.returncode not in (0, -signal.SIGKILL)
    assert re.search(r'rank\s*: 1 ', output) and 'Signal 9 (SIGKILL)' in output, output[-4000:]


# ------------------------------------------------------------- what a restart goes on from
def restarted(monkeypatch, work_dir, **changes):
    """Train as torchrun's first restart does; return the losses by step."""
    with monkeypatch.context() as patch:
        patch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
        return train(work_dir, seed=1, **changes)


def test_restart_goes_on(tmp_path, monkeypatch):
    """From the last checkpoint; where there is none from what the run was started with."""
    assert sorted(restarted(monkeypatch, tmp_path)) == list(range(1, 13))
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_9.pth'))
    assert sorted(restarted(monkeypatch, tmp_path)) == [10, 11, 12]
    assert sorted(train(tmp_path, seed=1)) == list(range(1, 13))  # a first start does not
    # weights to start from, and a checkpoint named by --resume
    other, options = tmp_path / 'other', dict(load_from=str(tmp_path / 'iter_6.pth'))
    tuned = train(tmp_path / 'tuned', seed=1, **options)
    assert restarted(monkeypatch, other, **options) == pytest.approx(tuned, abs=1e-5)
    (other / 'last_checkpoint').write_text(str(other / 'iter_9.pth'))
    assert sorted(restarted(monkeypatch, other, **options)) == [10, 11, 12]
    empty = tmp_path / 'empty'
    assert sorted(restarted(monkeypatch, empty, resume=True, **options)) == list(range(7, 13))
    with pytest.raises(CheckpointError, match='nothing to go on from'):
        for path in empty.glob('iter_*.pth'):
            path.write_bytes(b'x')
        restarted(monkeypatch, empty)


def test_restarted_evaluation_loads_its_own(tmp_path, monkeypatch):
    """Only training goes on by itself: what is evaluated stays what was asked for."""
    (tmp_path / 'iter_3.pth').write_bytes(b'x')
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    runner = SimpleNamespace(
        _train_loop=dict(), _resume=False, _load_from='named.pth', work_dir=str(tmp_path)
    )
    SafeCheckpointHook().before_run(runner)
    assert (runner._resume, runner._load_from) == (False, 'named.pth')


def test_restarts_need_a_work_dir_of_their_own(tmp_path, monkeypatch):
    """Checkpoints of another run are not to be taken for those of the one that is restarted."""
    cfg = Config(dict(work_dir=str(tmp_path), resume=False, load_from=None))
    monkeypatch.setenv('TORCHELASTIC_MAX_RESTARTS', '3')
    check_restarts(cfg)
    (tmp_path / 'iter_3.pth').touch()
    (tmp_path / 'iter_6.pth').touch()
    with pytest.raises(UserError, match='would go on from .*iter_6.pth'):
        check_restarts(cfg)
    cfg.resume = True
    check_restarts(cfg)
    cfg.load_from = str(tmp_path / 'iter_6.pth')
    check_restarts(cfg)
    cfg.load_from = str(tmp_path / 'iter_3.pth')
    with pytest.raises(UserError, match='--resume without a file'):
        check_restarts(cfg)
    monkeypatch.setenv('TORCHELASTIC_MAX_RESTARTS', '0')
    check_restarts(cfg)


def test_strategies_do_not_go_on(monkeypatch):
    """mmengine loads before hooks run, and cannot load FSDP's optimizer: said, and not tried."""
    cfg = Config.fromfile(ROOT / 'configs/strategies/fsdp.py')
    check_strategy(cfg)
    cfg.resume = True
    with pytest.raises(UserError, match='load_from=CHECKPOINT'):
        check_strategy(cfg)
    cfg.resume = False
    monkeypatch.setenv('TORCHELASTIC_MAX_RESTARTS', '1')
    with pytest.raises(UserError, match='cannot go on with a strategy'):
        check_strategy(cfg)
    cfg.pop('runner_type')
    check_strategy(cfg)


def test_dist_train_takes_restarts(tmp_path):
    """MAX_RESTARTS is checked before processes are started."""
    config, env = write_config(tmp_path), dict(PYTHONPATH=PATHS)
    command = ['dist_train.sh', config, 2, '--work-dir', tmp_path]
    error = one_line_error(*command, env=dict(env, MAX_RESTARTS='often'))
    assert error == "error: MAX_RESTARTS must be a number from 0 up, got 'often'"
    (tmp_path / 'iter_6.pth').touch()
    error = one_line_error(*command, env=dict(env, MAX_RESTARTS='2'))
    assert f'would go on from {tmp_path}/iter_6.pth' in error


if __name__ == '__main__':
    train_heavy(sys.argv[1], int(sys.argv[2]))
