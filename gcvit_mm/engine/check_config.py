"""What can be wrong with a config before anything is built from it."""

import difflib
import inspect
from typing import Any, Iterator

from mmengine.config import Config
from mmengine.runner import Runner

from ..errors import UserError

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# Settings that must be dicts, and the least values of counts.
SECTIONS = (
    'model',
    'model.backbone',
    'model.neck',
    'model.data_preprocessor',
    'train_cfg',
    'optim_wrapper',
    'optim_wrapper.optimizer',
    'default_hooks',
    'env_cfg',
    *LOADERS,
    *(f'{loader}.dataset' for loader in LOADERS),
)
COUNTS = {
    'train_cfg.max_iters': 1,
    'train_cfg.max_epochs': 1,
    'train_cfg.val_interval': 1,
    **{f'{loader}.batch_size': 1 for loader in LOADERS},
    **{f'{loader}.num_workers': 0 for loader in LOADERS},
}


def check_options(cfg: Config, cfg_options: dict) -> None:
    """Check that options do not set misspelt sections, which nothing would read.

    Raises:
        UserError: If one is not in the config, but nearly.
    """
    for option in cfg_options:
        key = option.split('.')[0]
        close = difflib.get_close_matches(key, list(cfg), n=1, cutoff=0.85)
        if key not in cfg and key not in inspect.signature(Runner).parameters and close:
            raise UserError(
                f'--cfg-options {option}: the config has no {key}: did you mean {close[0]}?'
            )


def check_types(cfg: Config) -> None:
    """Check the types of what is read before anything is built.

    Raises:
        UserError: If a section is no dict, or a count no number; the message names the key.
    """
    for key in SECTIONS:
        value = _get(cfg, key)
        if value is not None and not isinstance(value, dict):
            raise UserError(f'config: {key} is {value!r}: it must be a dict')
    hooks = cfg.get('default_hooks') or {}
    wrong = [f'default_hooks.{k}' for k, v in hooks.items() if isinstance(v, (str, int, list))]
    if cfg.get('model') is None:
        wrong = ['model']
    elif cfg.model.get('backbone', {}) is None:
        wrong = ['model.backbone']
    if wrong:
        raise UserError(f'config: {wrong[0]} is {_get(cfg, wrong[0])!r}: it must be a dict')
    for key, least in COUNTS.items():
        value = _get(cfg, key)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and least <= value == value // 1):
            raise UserError(
                f'config: {key} is {value!r}: it must be a whole number from {least} up'
            )
    for loader in LOADERS:
        names = _get(cfg, f'{loader}.dataset.metainfo.classes')
        if names is not None and not isinstance(names, (list, tuple)):
            raise UserError(
                f'config: {loader}.dataset.metainfo.classes is {names!r}: it must be a list of '
                "names, e.g. ('cat', 'dog')"
            )


def _get(node: Any, path: str) -> Any:
    """Value of a dotted key, None where there is none."""
    for key in path.split('.'):
        node = node.get(key) if isinstance(node, (dict, Config)) else None
    return node


def dicts_inside(node: Any) -> Iterator[dict]:
    """Walk all dicts inside nested dicts, lists and tuples."""
    if isinstance(node, dict):
        yield node
        for value in list(node.values()):
            yield from dicts_inside(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from dicts_inside(value)
