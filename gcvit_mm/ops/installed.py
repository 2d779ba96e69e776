"""A stand-in in mmcv's own folder, for programs that know nothing of gcvit_mm.

A program that imports ``mmcv.ops`` before it imports ``gcvit_mm`` needs a file ``_ext.py`` there.
Only Python's own library is imported here, for where nothing else imports.
"""

import importlib.metadata
import importlib.util
import os
import os.path as osp
from importlib.machinery import EXTENSION_SUFFIXES
from typing import List, Optional

NAME = '_ext.py'
TEXT = """# by 'python -m gcvit_mm ops install'; 'python -m gcvit_mm ops remove' takes it away
import gcvit_mm.ops.standin, sys; sys.modules[__name__] = gcvit_mm.ops.standin.extension()
"""


def mmcv_folder() -> Optional[str]:
    """The folder of mmcv, found without importing it; None where there is no mmcv."""
    spec = importlib.util.find_spec('mmcv')
    return osp.dirname(spec.origin) if spec is not None and spec.origin else None


def is_ours(path: Optional[str]) -> bool:
    """Whether a file is the one that :func:`install` writes (of this version or another)."""
    if not path or osp.basename(path) != NAME or not osp.isfile(path):
        return False
    with open(path, encoding='utf-8', errors='replace') as file:
        return file.readline() == TEXT.splitlines(True)[0]


def installed() -> bool:
    """Whether the stand-in lies in mmcv's folder."""
    folder = mmcv_folder()
    return folder is not None and is_ours(osp.join(folder, NAME))


def compiled_files() -> List[str]:
    """Files of compiled operators in mmcv's folder, whether they import or not."""
    folder = mmcv_folder()
    names = [f'_ext{suffix}' for suffix in EXTENSION_SUFFIXES]
    paths = [osp.join(folder, name) for name in names] if folder else []
    return [path for path in paths if osp.exists(path)]


def advice() -> str:
    """How mmcv gets compiled operators, as a command."""
    name, version = 'mmcv', ''
    for candidate in ('onedl-mmcv', 'mmcv'):
        try:
            version, name = '==' + importlib.metadata.version(candidate).split('+')[0], candidate
            break
        except importlib.metadata.PackageNotFoundError:
            pass
    return (
        'MMCV_WITH_OPS=1 pip install --no-cache-dir --force-reinstall --no-deps '
        f'--no-build-isolation --no-binary {name} {name}{version}'
    )


def problem(folder: Optional[str]) -> str:
    """Why nothing can be installed or removed; empty where it can."""
    if folder is None:
        return 'mmcv is not installed: pip install onedl-mmcv'
    path = osp.join(folder, NAME)
    if osp.exists(path) and not is_ours(path):
        return f'{path} is not a file of gcvit_mm: it is left alone'
    if not os.access(folder, os.W_OK):
        return f'{folder} is not writable: run this as the user who owns it'
    return ''


def install() -> str:
    """Write the file.

    Returns:
        A line that says so.

    Raises:
        RuntimeError: A line that says why not.
    """
    folder, compiled = mmcv_folder(), compiled_files()
    if compiled:
        raise RuntimeError(f'mmcv has compiled operators, nothing is installed: {compiled[0]}')
    reason = problem(folder)
    if reason or folder is None:
        raise RuntimeError(reason)
    path = osp.join(folder, NAME)
    with open(path, 'w', encoding='utf-8') as file:
        file.write(TEXT)
    return f'wrote {path}: mmcv.ops uses the operators of gcvit_mm'


def remove() -> str:
    """Take the file away; arguments, result and errors as :func:`install`."""
    folder = mmcv_folder()
    path = osp.join(folder or '', NAME)
    if folder is not None and not osp.exists(path):
        return f'nothing to remove: there is no {path}'
    reason = problem(folder)
    if reason:
        raise RuntimeError(reason)
    os.remove(path)
    return f'removed {path}'
