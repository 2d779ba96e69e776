"""Signals from a terminal, a launcher and Slurm: what processes make of them."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.faulty_run import write_config
from support.processes import gone, moments, parents, processes_of, start_training
from support.running import ENV, TESTS, run

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith('linux'), reason='looks at processes as Linux shows them'
)
OPTIONS = [
    'default_hooks.checkpoint.interval=100000',
    'default_hooks.stop.type=StopOnSignal',
    'train_dataloader.num_workers=2',
    'train_dataloader.persistent_workers=True',
]


def training(tmp_path, launcher=False):
    """Start a long training; return it once it trains."""
    options = [*OPTIONS, 'train_cfg.max_iters=100000']
    process = start_training(write_config(tmp_path), tmp_path / 'work', launcher, options=options)
    for _ in moments(process, 'three losses'):  # both workers have given batches then
        logs = list((tmp_path / 'work').glob('*/*.log'))
        if any(log.read_text().count('Iter(train)') >= 3 for log in logs):
            return process


def ranks(tmp_path):
    """Numbers of the processes that train, without launcher and workers."""
    found = parents(processes_of(str(tmp_path)))
    launcher = [
        n for n in found if 'torch.distributed.run' in Path(f'/proc/{n}/cmdline').read_text()
    ]
    return [n for n in found if found[n] in launcher]


def goes_on(tmp_path, output):
    """A run says where it ended, and goes on from there when told to."""
    ((name, step, path),) = re.findall(
        r'ended by (\w+) after step (\d+): go on with --resume \((\S+)\)', output
    )
    assert path == str(tmp_path / f'work/iter_{step}.pth') and Path(path).exists()
    end = int(step) + 2
    options = [*OPTIONS, f'train_cfg.max_iters={end}']
    words = ['train.py', write_config(tmp_path), '--work-dir', tmp_path / 'work', '--resume']
    output = run(*words, '--cfg-options', *options)
    steps = re.findall(rf'Iter\(train\)\s*\[\s*(\d+)/{end}\]', output)
    assert [int(n) for n in steps] == [end - 1, end]
    return name


@pytest.mark.parametrize(('number', 'status'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_whole_group(number, status, tmp_path):
    """Ctrl-C and scancel send their signal to workers of data loaders, too."""
    process = training(tmp_path)
    os.killpg(process.pid, number)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == status and 'Traceback' not in output, output[-3000:]
    assert gone(tmp_path, process)
    assert goes_on(tmp_path, output) == signal.Signals(number).name


@pytest.mark.parametrize('whom', ['the second rank', 'the launcher', 'all'])
def test_two_processes(whom, tmp_path):
    """Whoever is told: both end after the same step, which is saved once and whole."""
    process = training(tmp_path, launcher=True)
    if whom == 'all':
        os.killpg(process.pid, signal.SIGINT)
    else:
        os.kill(max(ranks(tmp_path)) if 'rank' in whom else process.pid, signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode != 0 and gone(tmp_path, process)
    assert len(list((tmp_path / 'work').glob('*.pth'))) == 1, output[-3000:]
    assert goes_on(tmp_path, output) == ('SIGINT' if whom == 'all' else 'SIGTERM')


RUN = """
import signal, sys
sys.path.insert(0, 'tests')
from mmengine.hooks import Hook
from support.small_run import train

class Slow(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 1:
            print('ready', flush=True)
            for _ in range(100):
                __import__('time').sleep(0.1)

train(sys.argv[1], hooks=dict(stop=dict(type='StopOnSignal'), slow=Slow()))
"""


def test_a_second_signal_ends_at_once(tmp_path):
    """In the middle of a step that takes ten seconds."""
    process = subprocess.Popen(
        [sys.executable, '-c', RUN, str(tmp_path)],
        env=dict(ENV, PYTHONPATH=TESTS),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert any(line == 'ready\n' for line in process.stdout)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.6)
    assert process.poll() is None
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == -signal.SIGTERM and time.monotonic() - start < 5
    assert not list(tmp_path.glob('*.pth'))
