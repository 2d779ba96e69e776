"""Killed trainings leave no process, and hopeless ones are not started again."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from gcvit_mm.datacheck import pipeline
from gcvit_mm.processes import WorkerInit, hold_signals
from support.faulty_run import write_config
from support.processes import finish, gone, moments, processes_of, start_training
from support.running import ENV, ROOT, one_line_error

linux = pytest.mark.skipif(not sys.platform.startswith('linux'), reason='Linux ends them')


@linux
@pytest.mark.parametrize('launcher', [False, True])
def test_killed_training_leaves_nothing(launcher, tmp_path):
    """The process itself, or torchrun above two of them: workers and ranks are gone at once."""
    options = ['train_cfg.max_iters=100000', 'default_hooks.checkpoint.interval=100000']
    options += ['train_dataloader.num_workers=2', 'train_dataloader.persistent_workers=True']
    process = start_training(write_config(tmp_path), tmp_path / 'work', launcher, options=options)
    try:
        count = 7 if launcher else 3  # torchrun, two ranks, two workers each
        for _ in moments(process, 'workers'):
            if len(processes_of(str(tmp_path))) >= count:
                break
        time.sleep(1)
        process.kill()
        process.communicate(timeout=30)  # ends only when nobody holds its output
        assert gone(tmp_path, process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@linux
@pytest.mark.parametrize('launcher', ['alive', 'gone'])
def test_ranks_that_come_late(launcher, tmp_path):
    """torchrun was killed while a rank was still importing: the rank has another parent then."""
    code = 'from gcvit_mm import processes; processes.end_with_launcher(); print("goes on")'
    words = [sys.executable, '-c', code]
    if launcher == 'gone':  # what starts it is no Python program, as what takes orphans is none
        words = ['sh', '-c', f"{sys.executable} -c '{code}'; echo $?"]
    env = dict(ENV, TORCHELASTIC_RUN_ID='1')
    said = subprocess.run(words, cwd=ROOT, env=env, text=True, capture_output=True, timeout=120)
    lines = said.stdout.splitlines()
    assert lines[-1] == dict(alive='goes on', gone=str(128 + signal.SIGKILL))[launcher]
    assert ('goes on' in lines) == (launcher == 'alive')


def test_workers_are_prepared_as_before():
    """What the config asks of a worker at its start still happens."""
    done = []
    init = WorkerInit(done.append)
    pid = os.fork()
    if not pid:  # a worker
        init(3)
        os._exit(0 if done == [3] else 1)
    assert os.waitpid(pid, 0)[1] == 0


@linux
def test_workers_that_come_late():
    """The training was killed before its worker had begun: the worker has another parent then."""
    code = """if True:
        import os, time
        from gcvit_mm.processes import WorkerInit

        init = WorkerInit(None)
        if os.fork():
            os._exit(0)
        while os.getppid() == init.parent:
            time.sleep(0.01)
        init(0)
        print('goes on')
    """
    said = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, timeout=120)
    assert said.stdout == b''


@linux
@pytest.mark.parametrize('method', ['spawn', 'forkserver'])
def test_workers_however_they_are_started(method):
    """None takes the one that started it for another, and ends."""
    cfg = dict(dataset=list(range(3)), num_workers=1, multiprocessing_context=method)
    loader = pipeline.build_dataloader(lambda cfg: DataLoader(**cfg), {}, cfg)
    assert [int(batch) for batch in loader] == [0, 1, 2]


@linux
@pytest.mark.parametrize('held', [True, False])
def test_signal_to_a_worker_that_starts(held, monkeypatch):
    """SIGTERM to the whole group while torch prepares the worker: it goes on loading."""
    prepare = signal_handling._set_worker_signal_handlers

    def told():
        prepare()
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(signal_handling, '_set_worker_signal_handlers', told)
    monkeypatch.setattr(pipeline, 'hold_signals', hold_signals if held else lambda start: start)
    cfg = dict(dataset=list(range(3)), num_workers=1)
    loader = pipeline.build_dataloader(lambda cfg: DataLoader(**cfg), {}, cfg)
    if held:
        assert [int(batch) for batch in loader] == [0, 1, 2]
        assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    else:
        with pytest.raises(RuntimeError, match='worker'):
            list(loader)


@linux
def test_an_error_inside_of_a_lock():
    """What waits for it when it is taken away does not keep the process: it ends all the same."""
    code = """if True:
        import threading
        from gcvit_mm import UserError
        from gcvit_mm.cli import running

        class Loader:
            lock = threading.Lock()

            def __del__(self):
                self.lock.acquire()

        def main():
            loader = Loader()
            loader.lock.acquire()
            raise UserError('a worker was killed')

        running.LAST = 1
        running.run_tool(main)
    """
    words = [sys.executable, '-c', code]
    said = subprocess.run(words, cwd=ROOT, text=True, capture_output=True, timeout=120)
    assert said.stderr == 'error: a worker was killed\n'
    assert said.returncode == -signal.SIGALRM


def test_bad_input_is_not_tried_again(tmp_path):
    """A line with status 2 stands in the output once for each process, whatever MAX_RESTARTS."""
    work = tmp_path / 'work'
    options = ['optim_wrapper.optimizer.type=AdamX']
    process = start_training(write_config(tmp_path), work, True, restarts=3, options=options)
    output = finish(process, 240)
    assert process.returncode != 0
    lines = re.findall(r'error: optim_wrapper.optimizer.type is AdamX', output)
    assert 1 <= len(lines) <= 2, output[-3000:]


# ------------------------------------------------------------- odd values of the environment
@pytest.mark.parametrize(
    'name, value',
    [
        ('NNODES', 'two'),
        ('NNODES', '0'),
        ('NODE_RANK', '-1'),
        ('NODE_RANK', '1'),
        ('PORT', 'http'),
        ('PORT', '70000'),
        ('MAX_RESTARTS', '-1'),
        ('MAX_RESTARTS', '1.5'),
        ('OMP_NUM_THREADS', 'all'),
    ],
)
def test_odd_settings_of_the_launcher(name, value, tmp_path):
    """The variable, its value and what it must be; nothing is started."""
    error = one_line_error('dist_train.sh', 'configs/none.py', 2, env={name: value})
    assert name in error and f"got '{value}'" in error


@pytest.mark.parametrize('name', ['GPUS', 'GPUS_PER_NODE', 'CPUS_PER_TASK', 'PORT'])
def test_odd_settings_of_slurm(name, tmp_path):
    """The same, before srun is looked for."""
    words = ['slurm_train.sh', 'partition', 'job', 'configs/mask_gcvit_t_1x.py']
    for value in ('many', '0', '-4'):
        error = one_line_error(*words, env={name: value})
        assert name in error and f"got '{value}'" in error
