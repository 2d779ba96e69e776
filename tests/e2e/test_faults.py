"""Training that is killed at random moments, and processes that torchrun starts again."""

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

from gcvit_mm import CheckpointError, UserError
from gcvit_mm.cli import check_restarts, check_strategy
from gcvit_mm.engine import SafeCheckpointHook
from gcvit_mm.engine.resuming import numbered_checkpoints
from gcvit_mm.engine.saving import UNFINISHED
from support import faulty_run
from support.faulty_run import STEPS, write_config
from support.processes import attempts, finish, moments
from support.running import ENV, ROOT, TESTS, one_line_error
from support.small_run import load, train


def curve(work_dir):
    """Steps and losses in the order they were trained; a last line that was cut off is dropped."""
    path = work_dir / 'losses.txt'
    text = path.read_text() if path.exists() else ''
    rows = [line.split() for line in text[: text.rfind('\n') + 1].splitlines()]
    return [(int(step), float(loss)) for step, loss in rows]


def start_heavy(work_dir, interval):
    """Start a process of ``faulty_run``."""
    work_dir.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, faulty_run.__file__, str(work_dir), str(interval)],
        cwd=ROOT,
        env=dict(ENV, PYTHONPATH=TESTS),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


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
def torchrun(config, work_dir, restarts):
    """Start two processes by torchrun itself."""
    words = ['--standalone', '--nproc_per_node=2', f'--max-restarts={restarts}']
    words += [str(ROOT / 'tools/train.py'), str(config), '--launcher', 'pytorch']
    return subprocess.Popen(
        [sys.executable, '-m', 'torch.distributed.run', *words, '--work-dir', str(work_dir)],
        cwd=ROOT,
        env=dict(ENV, PYTHONPATH=TESTS),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


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
    config, env = write_config(tmp_path), dict(PYTHONPATH=TESTS)
    command = ['dist_train.sh', config, 2, '--work-dir', tmp_path]
    error = one_line_error(*command, env=dict(env, MAX_RESTARTS='often'))
    assert error == "error: MAX_RESTARTS must be a number, got 'often'"
    (tmp_path / 'iter_6.pth').touch()
    error = one_line_error(*command, env=dict(env, MAX_RESTARTS='2'))
    assert f'would go on from {tmp_path}/iter_6.pth' in error
