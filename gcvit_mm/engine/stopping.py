"""Ending a run when it is told to, with a whole checkpoint."""

import os
import signal
import subprocess
import threading
import time
from typing import Any, Dict, Optional

import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..processes import leave_group
from .saving import SafeCheckpointHook

SIGNALS = [getattr(signal, n) for n in ('SIGTERM', 'SIGINT', 'SIGUSR1') if hasattr(signal, n)]
SAME = 0.3  # seconds: a terminal and torchrun both pass on one Ctrl-C


@HOOKS.register_module()
class StopOnSignal(Hook):
    """Ends training after the step at hand when SIGTERM, SIGINT or SIGUSR1 comes.

    A checkpoint is saved there, also in the middle of an epoch, by ``SafeCheckpointHook``; a line
    says how to go on, and the status is 128 plus the signal's number. A second signal ends the
    process at once. All processes end after the same step. While one process evaluates, it ends
    there; several finish evaluating first.

    After SIGUSR1 under Slurm (``#SBATCH --signal=USR1@120``) the job is queued again; started
    anew, it resumes.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.number = 0
        self.time = 0.0
        self.before: Dict[int, Any] = {}

    def before_train(self, runner: Runner) -> None:
        """Listen, where Python lets this thread do so."""
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self.receive) for number in SIGNALS}

    def after_train(self, runner: Runner) -> None:
        """Listen no longer."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def receive(self, number: int, frame: Any) -> None:
        """Note the first signal; end the process with the second."""
        if not self.number:
            self.number, self.time = number, time.monotonic()
            name = signal.Signals(number).name
            os.write(2, f'{name}: ending after this step; a second one ends at once\n'.encode())
        elif time.monotonic() - self.time > SAME:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def told(self) -> int:
        """The signal that any of the processes has received; 0 if none has."""
        if get_world_size() == 1:
            return self.number
        number = torch.tensor(self.number)
        all_reduce(number, 'max')
        return int(number)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """End inside an epoch."""
        loop, done, passed = runner.train_loop, runner.iter + 1, 0
        if isinstance(loop, EpochBasedTrainLoop):
            # an epoch that was resumed counts its batches anew
            batches = loop.dataloader.batch_sampler
            passed = done - getattr(batches, 'start', runner.iter - batch_idx)
            if passed >= len(loop.dataloader):
                return  # the epoch's own end comes next
        self.end_if_told(runner, dict(epoch=runner.epoch, iter=done), passed)

    def after_train_epoch(self, runner: Runner) -> None:
        """End between two epochs."""
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            self.end_if_told(runner, dict(epoch=runner.epoch + 1, iter=runner.iter))

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """End while evaluating, if this is the only process: others may have less to evaluate."""
        if self.before and get_world_size() == 1:
            self.end_if_told(runner, dict(epoch=runner.epoch, iter=runner.iter))

    def after_val_epoch(self, runner: Runner, metrics: Optional[dict] = None) -> None:
        """End after evaluating."""
        if self.before:
            self.end_if_told(runner, dict(epoch=runner.epoch, iter=runner.iter))

    def end_if_told(self, runner: Runner, meta: Dict[str, int], passed: int = 0) -> None:
        """Save and end, if there was a signal.

        Args:
            runner: The runner.
            meta: Epochs and steps that are done.
            passed: Batches of an epoch that are, inside of one.
        """
        number = self.told()
        if not number:
            return
        hook = next((h for h in runner.hooks if isinstance(h, SafeCheckpointHook)), None)
        if hook is None:
            line = 'no SafeCheckpointHook, nothing saved'
        else:
            line = f'go on with --resume ({hook.save_now(runner, meta, passed)})'
        self.after_train(runner)
        name = signal.Signals(number).name
        if name == 'SIGUSR1' and is_main_process():
            line = requeue() or line
        runner.logger.warning(f'ended by {name} after step {meta["iter"]}: {line}')
        leave_group()
        raise SystemExit(128 + number)


def requeue() -> str:
    """Have Slurm queue this job again; what it answers, '' where this is no job of Slurm."""
    env = os.environ
    job = env.get('SLURM_JOB_ID')
    if job is None:
        return ''
    if 'SLURM_ARRAY_TASK_ID' in env:
        job = f'{env["SLURM_ARRAY_JOB_ID"]}_{env["SLURM_ARRAY_TASK_ID"]}'
    try:
        done = subprocess.run(
            ['scontrol', 'requeue', job], capture_output=True, text=True, timeout=60
        )
        answer = ' '.join((done.stdout + done.stderr).split())
    except (OSError, subprocess.SubprocessError) as error:
        return f'job {job} is not queued again ({error}): go on with --resume'
    if done.returncode:
        return f'job {job} is not queued again (scontrol requeue: {answer}): go on with --resume'
    return f'Slurm queues job {job} again, which resumes'
