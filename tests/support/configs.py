"""The shipped configs, read once a process."""

import copy
import functools

from mmengine.config import Config

from support.running import ROOT

CONFIGS = ROOT / 'configs'


@functools.lru_cache(maxsize=None)
def _read(name: str) -> Config:
    return Config.fromfile(CONFIGS / f'{name}.py')


def read_config(name: str) -> Config:
    """A copy of a config in configs/, by its name."""
    return copy.deepcopy(_read(name))
