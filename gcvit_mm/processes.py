"""Processes that end with the one that started them."""

import ctypes
import os
import signal
import sys
from typing import Any, Callable, Optional

PR_SET_PDEATHSIG = 1  # prctl(2)


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
    """Let this process end with torchrun, where that started it."""
    if 'TORCHELASTIC_RUN_ID' in os.environ:
        end_with_parent(os.getppid())


class WorkerInit:
    """First thing that a worker of a data loader does: it will not outlive the training.

    Args:
        init: What it does after that.
    """

    def __init__(self, init: Optional[Callable[[int], Any]]) -> None:
        self.init = init
        self.parent = os.getpid()

    def __call__(self, worker: int) -> None:
        forked = os.getppid() == self.parent  # others are started by a server of their own
        end_with_parent(self.parent if forked else os.getppid())
        if self.init is not None:
            self.init(worker)


def stop_restarts() -> None:
    """Tell torchrun, where it would start this process again, to end: the next try fails too."""
    left = int(os.environ.get('TORCHELASTIC_MAX_RESTARTS', 0)) - int(
        os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)
    )
    if 'TORCHELASTIC_RUN_ID' in os.environ and left > 0:
        os.kill(os.getppid(), signal.SIGTERM)
