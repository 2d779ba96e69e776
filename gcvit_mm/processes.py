"""Processes that end with the one that started them."""

import ctypes
import multiprocessing
import os
import signal
import sys
from typing import Any, Callable, List, Optional

import torch

PR_SET_PDEATHSIG = 1  # prctl(2)
GRACE = 30
LONGEST = 1024  # bytes of a path that are kept
OPEN_FILES: List[Any] = []  # of a worker its own, of a training those of all its workers


def end_with_parent(parent: int) -> None:
    """Let the kernel end this process once the one that started it has ended, however it did.

    Linux only; elsewhere nothing happens.

    Args:
        parent: Its number; if it has ended already, so does this process.
    """
    if not sys.platform.startswith('linux'):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def end_with_launcher() -> None:
    """Let this process end with torchrun, where that started it.

    Where it has ended already, whoever takes orphans is the parent; that is no Python program, as
    torchrun is. Without it, this process would wait half an hour for the others.
    """
    if 'TORCHELASTIC_RUN_ID' in os.environ:
        parent = os.getppid()
        end_with_parent(parent if runs_python(parent) else -1)


def runs_python(pid: int) -> bool:
    """Whether a process is a Python program; True where that cannot be seen."""
    try:
        with open(f'/proc/{pid}/cmdline', 'rb') as file:
            return b'python' in os.path.basename(file.read().partition(b'\0')[0])
    except OSError:
        return True


class WorkerInit:
    """First thing that a worker of a data loader does: it lives as long as the training does.

    It ends with that, and not before: a terminal and Slurm send their signals to workers as well,
    for which the step at hand still waits. SIGTERM ends it after :data:`GRACE` seconds.

    Args:
        init: What it does after that.
        workers: How many there are.
        context: What starts them.
    """

    def __init__(
        self,
        init: Optional[Callable[[int], Any]],
        workers: int = 1,
        context: Any = multiprocessing,
    ) -> None:
        self.init = init
        # a server of Python's is the parent of those that it starts
        self.parent = None if context.get_start_method() == 'forkserver' else os.getpid()
        self.files = [context.Array('c', LONGEST) for _ in range(workers)]
        OPEN_FILES.extend(self.files)

    def __call__(self, worker: int) -> None:
        OPEN_FILES[:] = self.files[worker : worker + 1]
        # who is the parent now may be the one that takes orphans
        end_with_parent(self.parent or os.getppid())
        if hasattr(signal, 'alarm'):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        if self.init is not None:
            self.init(worker)


def hold_signals(start: Callable[[], Any]) -> Callable[[], Any]:
    """Return a function that starts workers and keeps SIGTERM from them until :class:`WorkerInit`.

    Before that torch's handler would end them, and with them a training that still wants to save.
    """

    def held() -> Any:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        try:
            return start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    return held if hasattr(signal, 'pthread_sigmask') else start


def note_file(path: str) -> None:
    """Let the training know which file a worker reads."""
    if multiprocessing.parent_process() is not None and OPEN_FILES:
        OPEN_FILES[0].value = os.fsencode(path)[: LONGEST - 1]


def noted_files() -> List[str]:
    """The files that the workers of this process have read last."""
    return sorted({os.fsdecode(file.value) for file in OPEN_FILES} - {''})


def end_workers() -> None:
    """End the processes that this one has started and that would end no other way."""
    children = multiprocessing.active_children()
    # torch would report that they have ended
    listens = bool(children) and hasattr(signal, 'SIGCHLD')
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if listens else None
    for child in children:
        child.kill()
        child.join()
    if listens:
        signal.signal(signal.SIGCHLD, handler)


def leave_group() -> None:
    """Leave the process group, if this process is in one: threads of gloo's would abort its end."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def stop_restarts() -> None:
    """Tell torchrun, where it would start this process again, to end: the next try fails too."""
    left = int(os.environ.get('TORCHELASTIC_MAX_RESTARTS', 0)) - int(
        os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)
    )
    if 'TORCHELASTIC_RUN_ID' in os.environ and left > 0:
        os.kill(os.getppid(), signal.SIGTERM)
