"""Processes that begin with everything imported.

They are forked of a server that has imported it once: that takes longer than a short training.
"""

import multiprocessing
import os
import signal
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple
from unittest import mock

from support.in_process import entry
from support.processes import free_port
from support.running import TESTS, environment

CONTEXT = multiprocessing.get_context('forkserver')
IMPORTED = ['support.in_process', 'support.faulty_run', 'mmdet.models', 'mmdet.datasets']
IMPORTED += ['mmpretrain.models', 'mmpretrain.datasets', 'torch.distributed.fsdp']


class Forked:
    """A process, with what tests ask of :class:`subprocess.Popen`.

    Args:
        log: File for what it prints.
        function: What it does.
        args: Arguments of the function.
        env: What its environment has beside that of other programs of the tests.
    """

    def __init__(
        self, log: Path, function: Callable, *args: Any, env: Optional[Dict[str, str]] = None
    ) -> None:
        self.log = log
        settings = dict(environment(), PYTHONPATH=TESTS)
        with mock.patch.dict(os.environ, settings, clear=True):  # as threads were told when
            CONTEXT.set_forkserver_preload(IMPORTED)  # they were imported
            forkserver.ensure_running()
        settings.update(env or {})
        self.process = CONTEXT.Process(target=begin, args=(settings, str(log), function, args))
        self.process.start()
        self.pid: int = self.process.pid  # type: ignore[assignment]

    @property
    def returncode(self) -> Optional[int]:
        """Its status, that of a signal below 0; None while it runs."""
        return self.process.exitcode

    def poll(self) -> Optional[int]:
        """The same."""
        return self.returncode

    def wait(self, timeout: Optional[float] = None) -> Optional[int]:
        """Wait for its end; returns its status."""
        self.process.join(timeout)
        return self.returncode

    def communicate(self, timeout: Optional[float] = None) -> Tuple[str, None]:
        """Wait for its end; returns what it printed."""
        assert self.wait(timeout) is not None, f'it runs for longer than {timeout} s'
        return self.log.read_text(errors='replace'), None

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it, and what it has started."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)


def begin(env: Dict[str, str], log: str, function: Callable, args: Tuple) -> None:
    """What a process does first."""
    os.setsid()
    os.environ.clear()
    os.environ.update(env)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(file, number)
    function(*args)


def tool(*words: str) -> None:
    """Run a program of tools/."""
    entry(words[0])(list(words[1:]))


def start_ranks(
    folder: Path,
    function: Callable,
    *args: Any,
    count: int = 2,
    env: Optional[Dict[str, str]] = None,
) -> List[Forked]:
    """Processes that train together, as torchrun starts them."""
    world = dict(env or {}, WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count))
    world.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())
    return [
        Forked(
            folder / f'rank_{rank}.log',
            function,
            *args,
            env=dict(world, RANK=str(rank), LOCAL_RANK=str(rank)),
        )
        for rank in range(count)
    ]


def run_ranks(folder: Path, function: Callable, *args: Any, **options: Any) -> Tuple[int, str]:
    """The same to their end: the first status that is not 0, and what they printed."""
    ranks = start_ranks(folder, function, *args, **options)
    try:
        while any(rank.poll() is None for rank in ranks):
            if any(rank.wait(0.05) for rank in ranks):  # the others wait for it in vain
                break
    finally:
        for rank in ranks:
            rank.kill()
    output = ''.join(rank.communicate()[0] for rank in ranks)
    return next((rank.returncode for rank in ranks if rank.returncode), 0), output
