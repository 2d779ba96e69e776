"""Reading a config, and what can be wrong with it before anything is built from it."""

import contextlib
import difflib
import glob
import inspect
import os.path as osp
from typing import Any, Optional

from mmengine.config import Config
from mmengine.runner import Runner

from ..addresses import config_path, home
from ..datacheck.datasets import LOADERS, dicts_inside
from ..errors import UserError
from ..messages import described
from .terminal import import_quietly

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


def load_config(path: str, cfg_options: Optional[dict] = None) -> Config:
    """Read a config file.

    Raises:
        UserError: If it does not exist or does not parse, or a setting has the wrong type.
    """
    if not osp.isfile(path):
        raise UserError(f'config {path} does not exist: {_config_hint(path)}')
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is a program
        raise UserError(f'config {path} cannot be read: {described(error)}: correct it') from error
    if cfg_options:
        check_options(cfg, cfg_options)
        try:
            cfg.merge_from_dict(cfg_options)
        except Exception as error:  # a key inside of what is no dict, or beyond a list
            raise UserError(
                f'--cfg-options {_culprit(path, cfg_options)}: {described(error)}: correct the '
                f'key, or set what holds it in {path}'
            ) from error
    if 'model' not in cfg:
        raise UserError(f'config {path} has no model: give one of the files beside _base_')
    check_types(cfg)
    import_quietly(cfg)
    return cfg


def _config_hint(path: str) -> str:
    """What may be meant by a path where no config is: a shipped one, or a neighbour."""
    with contextlib.suppress(UserError):
        return f'name {osp.relpath(config_path(path))}'
    folder = osp.dirname(path) or '.'
    names = sorted(glob.glob(osp.join(folder, '*.py')))
    names += glob.glob(str(home() / 'configs' / '*.py'))
    found = {osp.basename(name): osp.relpath(name) for name in reversed(names)}
    name = osp.splitext(osp.basename(path))[0] + '.py'
    close = difflib.get_close_matches(name, found, n=1)
    return f'did you mean {found[close[0]]}?' if close else 'check the path'


def _culprit(path: str, cfg_options: dict) -> str:
    """The option that cannot be set; all where each of them can."""
    for key, value in cfg_options.items():
        try:
            Config.fromfile(path).merge_from_dict({key: value})
        except Exception:
            return key
    return ', '.join(cfg_options)


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


def replace_data_root(cfg: Config, root: str) -> None:
    """Let every path of the config that begins with its ``data_root`` begin with ``root``.

    Raises:
        UserError: If the config has no ``data_root``.
    """
    old = cfg.get('data_root')
    if not old:
        raise UserError('--data-root: this config names no data_root; set the paths one by one')
    old, root = old.rstrip('/'), root.rstrip('/')

    def renew(value: Any) -> Any:
        if isinstance(value, str) and (value == old or value.startswith(old + '/')):
            return root + value[len(old) :]
        return value

    for node in dicts_inside(cfg._cfg_dict):
        for key, value in list(node.items()):
            node[key] = [renew(v) for v in value] if isinstance(value, list) else renew(value)
