"""The process beside a run that finds out what it needs of its GPU."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

pytest.importorskip('mmpretrain')

from gcvit_mm.cli import memory
from support.processes import processes_of
from support.running import ROOT

pytestmark = pytest.mark.skipif(not sys.platform.startswith('linux'), reason='Linux ends it')


def runner_of(path, said):
    """A runner as far as the hook asks it."""
    logger = SimpleNamespace(info=said.append, warning=said.append)
    cfg = SimpleNamespace(filename=str(path))
    return SimpleNamespace(work_dir=str(path.parent), cfg=cfg, world_size=1, logger=logger)


def test_what_a_run_needs(tmp_path, monkeypatch):
    """It is said once it is known; no rank's environment reaches the process."""
    monkeypatch.setattr(memory, 'gpu_memory', lambda: 1 << 30)
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '2')
    config = tmp_path / 'config.py'
    config.write_text(f"_base_ = '{ROOT / 'configs/cls_gcvit_xxt_300e.py'}'\n")
    said = []
    hook, runner = memory.MemoryReport(), runner_of(config, said)
    hook.before_train(runner)
    hook.after_train_iter(runner, 0)
    assert hook.process is not None and said == []
    hook.process.wait(120)
    hook.after_train_iter(runner, 1)
    (text,) = said
    assert 'GB of 1 GB: does not fit; python -m gcvit_mm plan' in text


def test_it_ends_with_a_killed_run(tmp_path):
    """The process beside a run is not left behind, however long it would take."""
    waits = tmp_path / 'waits.py'
    waits.write_text(f'#!{sys.executable}\nimport time\ntime.sleep(100)\n')
    waits.chmod(0o755)
    code = f"""if True:
        import os, signal, sys
        from types import SimpleNamespace as N
        from gcvit_mm.cli.memory import MemoryReport

        sys.executable = '{waits}'
        MemoryReport().before_train(N(work_dir='', cfg=N(filename='a.py'), world_size=1))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    words = [sys.executable, '-c', code]
    run = subprocess.run(words, cwd=ROOT, stderr=subprocess.PIPE, timeout=120)
    assert run.returncode == -signal.SIGKILL, run.stderr
    deadline = time.monotonic() + 10
    while processes_of(str(waits)) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = processes_of(str(waits))
    for number in left:
        os.kill(number, signal.SIGKILL)
    assert not left
