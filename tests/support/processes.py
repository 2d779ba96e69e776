"""Waiting for processes, and what they printed."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.running import ENV, ROOT, TESTS


def moments(process, what):
    """Wait for something that a running process is to do: ends the test if it does not."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        yield
        assert not ended, f'ended before {what}:\n{process.communicate()[0][-4000:]}'
        time.sleep(0.001)
    pytest.fail(f'no {what} within ten minutes')


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
    found, last = [], float('inf')
    for step, loss in rows:
        if int(step) <= last:
            found.append({})
        last = int(step)
        found[-1][last] = float(loss)
    return found


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


def processes_of(marker):
    """Numbers of the processes that have a word on their command line."""
    found = []
    for folder in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):
            if marker in (folder / 'cmdline').read_text() and state_of(folder.name) != 'Z':
                found.append(int(folder.name))
    return found


def state_of(pid):
    """State of a process: 'T' is stopped, 'Z' has ended."""
    return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]


def parents(pids):
    """The parent of each process."""
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            stat = Path(f'/proc/{pid}/stat').read_text()
            found[pid] = int(stat.rpartition(')')[2].split()[1])
    return found


def gone(marker, process, seconds=10):
    """Whether all processes with a word on their command line end; kills what is left."""
    deadline = time.monotonic() + seconds
    while processes_of(str(marker)) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = processes_of(str(marker))
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return not left


def start_training(config, work_dir, launcher=False, restarts=0, options=()):
    """Start a training: one process, or two by torchrun."""
    tool = [str(ROOT / 'tools/train.py'), str(config), '--work-dir', str(work_dir)]
    words = [sys.executable, *tool]
    if launcher:
        run = ['--standalone', '--nproc_per_node=2', f'--max-restarts={restarts}']
        words = [sys.executable, '-m', 'torch.distributed.run', *run, *tool]
        words += ['--launcher', 'pytorch']
    return subprocess.Popen(
        [*words, *(['--cfg-options', *options] if options else [])],
        cwd=ROOT,
        env=dict(ENV, PYTHONPATH=TESTS),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
