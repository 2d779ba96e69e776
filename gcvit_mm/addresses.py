"""Where the shipped configs are, and the names under which they are found."""

import difflib
import os.path as osp
from pathlib import Path
from typing import List

from .errors import UserError

PREFIX = 'gcvit_mm::'


def home() -> Path:
    """The folder of ``configs/``, ``tools/`` and ``model-index.yml``: a checkout, or what a wheel
    brings along."""
    package = Path(__file__).resolve().parent
    return package / '.mim' if (package / '.mim' / 'configs').is_dir() else package.parent


def shipped_configs() -> List[str]:
    """Names of the shipped configs, without .py."""
    return sorted(path.stem for path in (home() / 'configs').glob('*.py'))


def config_path(name: str) -> str:
    """Find a config.

    Args:
        name: Path of a file; or a shipped one: its name ('mask_gcvit_t_3x'), with or without .py
            and 'gcvit_mm::', or its path below ``configs/`` ('_base_/backbones/gcvit_t.py').

    Returns:
        Its path.

    Raises:
        UserError: If there is none; the message names the nearest.
    """
    if osp.isfile(name):
        return name
    short = name[len(PREFIX) :] if name.startswith(PREFIX) else name
    path = home() / 'configs' / (short if short.endswith('.py') else f'{short}.py')
    if path.is_file():
        return str(path)
    close = difflib.get_close_matches(Path(short).stem, shipped_configs(), n=1)
    hint = f'did you mean {close[0]}?' if close else 'gcvit_mm.list_models() shows what there is'
    raise UserError(f'there is no config {name}: {hint}')
