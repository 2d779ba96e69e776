"""Files that are whole or not there, and removal that touches nothing else."""

import contextlib
import os
import os.path as osp
import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, List, Optional, Tuple

from mmengine.fileio import LocalBackend, register_backend

# What is being written, until it is whole. One name, so that killed runs leave one file at most.
UNFINISHED = 'unfinished.tmp'


def write_whole(data: bytes, path: str) -> None:
    """Write a file so that its name never stands for a part of it, whenever the run ends.

    Args:
        data: What to write.
        path: Where to; a file of that name is replaced once the new one is on the disk.

    Raises:
        OSError: If it cannot be written, e.g. for want of space; nothing has changed then.
    """
    folder = osp.dirname(osp.abspath(path))
    os.makedirs(folder, exist_ok=True)
    unfinished = osp.join(folder, UNFINISHED)
    try:
        with open(unfinished, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError:
        if osp.exists(unfinished):
            os.remove(unfinished)
        raise
    with contextlib.suppress(OSError):  # the new name itself; some file systems have no such thing
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class Background:
    """Does what takes long beside training, one after the other.

    After an error nothing more is done until :meth:`finish` has raised it.
    """

    def __init__(self) -> None:
        self.pool: Optional[ThreadPoolExecutor] = None
        self.tasks: List[Future] = []
        self.error: Optional[OSError] = None

    def do(self, task: Callable[..., Any], *args: Any) -> None:
        """Do something later."""
        self.pool = self.pool or ThreadPoolExecutor(1, 'checkpoints')
        self.tasks.append(self.pool.submit(self._run, task, *args))

    def _run(self, task: Callable[..., Any], *args: Any) -> None:
        if self.error is None:
            try:
                task(*args)
            except OSError as error:
                self.error = error

    def finish(self) -> None:
        """Wait for all of it.

        Raises:
            OSError: The first that was raised.
        """
        for task in self.tasks:
            task.result()
        self.tasks.clear()
        error, self.error = self.error, None
        if error is not None:
            raise error


BACKGROUND = Background()


@register_backend('whole_files', force=True)
class WholeFileBackend(LocalBackend):
    """mmengine's backend of local files, which writes them whole or not at all, and later."""

    def put(self, obj: bytes, filepath: Any) -> None:
        """Write bytes, see :func:`write_whole` and :class:`Background`."""
        BACKGROUND.do(write_whole, obj, str(filepath))


class RemoveLater(LocalBackend):
    """A backend that removes files when told to and not before: first save, then remove.

    Whatever it is asked to remove, only regular files in its own folder go whose names are those
    of checkpoints; and folders only if this process has saved them (those of DeepSpeed).

    Args:
        folder: Where the run keeps its checkpoints.
        numbered: Template of their names.
    """

    def __init__(self, folder: str, numbered: str) -> None:
        self.folder = osp.realpath(folder)
        pattern = r'\d+'.join(re.escape(part) for part in numbered.split('{}'))
        self.names = re.compile(rf'best_.+|iter_\d+\.pth|{pattern}')
        self.waiting: List[Tuple[str, int]] = []
        self.saved: set = set()

    def own(self, filepath: Any) -> bool:
        """Tell whether a path may be removed."""
        folder, name = osp.split(osp.abspath(filepath))
        inside = osp.realpath(folder) == self.folder and self.names.fullmatch(name) is not None
        return inside and not osp.islink(filepath)

    def remove(self, filepath: Any) -> None:
        if self.own(filepath) and osp.isfile(filepath):
            self.waiting.append((str(filepath), os.stat(filepath).st_ino))

    def rmtree(self, dir_path: Any) -> None:
        if self.own(dir_path) and osp.basename(dir_path) in self.saved:
            shutil.rmtree(dir_path)

    def remove_now(self) -> None:
        BACKGROUND.do(remove, self.waiting)
        self.waiting = []


def remove(files: List[Tuple[str, int]]) -> None:
    """Remove files, unless they were written anew since they had those inodes."""
    for path, inode in files:
        if osp.exists(path) and os.stat(path).st_ino == inode:
            os.remove(path)
