"""What tools write: never in the place of what they read, and whole or not at all."""

import os
import os.path as osp
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Iterable, Iterator, Union

from ..errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_output(path: str, inputs: Iterable[str]) -> None:
    """Check that a file can be written, and that it is none of those that are read.

    Args:
        path: The file to write.
        inputs: The files that are read; those that are not there, such as addresses, count not.

    Raises:
        UserError: If it is one of them, under whatever name, or its folder does not exist.
    """
    folder = osp.dirname(osp.abspath(path))
    if not osp.isdir(folder):
        raise UserError(f'the folder of {path} does not exist: create it first')
    if osp.isdir(path):
        raise UserError(f'{path} is a folder: name a file in it')
    for source in inputs if osp.exists(path) else ():
        if osp.exists(source) and osp.samefile(path, source):
            raise UserError(f'{path} would replace {source}, which is read: write it elsewhere')


def make_folder(path: Union[str, 'os.PathLike[str]'], option: str = '') -> None:
    """Make a folder for outputs, if it is not there.

    Args:
        path: The folder.
        option: What names it, with a space behind it, for the error.

    Raises:
        UserError: If it cannot be made.
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise UserError(
            f'{option}{path} cannot be made ({error.strerror}): name another folder'
        ) from error


@contextmanager
def whole_output(path: str) -> Iterator[str]:
    """Let a file be written beside its place, and put it there once it is whole.

    Args:
        path: Where the file is to be; a link of that name is replaced, not followed.

    Yields:
        Where to write it; the name ends as that of ``path``.

    Raises:
        UserError: If it cannot be written; what was there before is untouched then.
    """
    folder, name = osp.split(osp.abspath(path))
    partial = ''
    try:
        handle, partial = tempfile.mkstemp(f'-{name[-100:]}', '.partial-', folder)
        os.close(handle)
        os.chmod(partial, 0o666 & ~_umask())
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise UserError(
            f'cannot write {path}: {error.strerror or error}: make space, or name another folder'
        ) from error
    finally:
        if partial and osp.exists(partial):
            os.remove(partial)


def save_figure(figure: 'Figure', path: Path) -> None:
    """Write a figure, whole or not at all; its folder is made where there is none.

    Raises:
        UserError: If it cannot be written, or the name ends in nothing that matplotlib writes.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_output(str(path)) as partial:
            figure.savefig(partial, bbox_inches='tight')
    except (OSError, ValueError) as error:
        raise UserError(f'cannot write {path}: {error}') from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
