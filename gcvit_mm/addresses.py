"""Where the shipped configs are, and the names under which they are found."""

import difflib
import importlib.util
import os.path as osp
import sys
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, Callable, List, Optional

from mmengine import hub
from mmengine.config import Config

from .errors import UserError
from .ops.standin import spec_and_then

PREFIX = 'gcvit_mm::'
MODEL_HUB = 'mmpretrain.apis.model'


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


# ------------------------------------------------------------------- other packages
def announce() -> None:
    """Let mmengine and mmpretrain find the shipped configs.

    ``gcvit_mm::NAME.py`` becomes an address for ``_base_``, ``mmengine.hub.get_config`` and
    ``get_model``: mmengine (0.10.12) takes those of packages that it lists, wants a folder in
    them, and takes the package's name for the scope of all that is in the file. mmpretrain's
    ``list_models`` and ``get_model`` get the classifiers, where it is imported.
    """
    Config._get_cfg_path = staticmethod(partial(_base_path, Config._get_cfg_path))
    hub.get_config = hub.hub.get_config = partial(_get_config, hub.get_config)
    if MODEL_HUB in sys.modules:
        _add_classifiers(sys.modules[MODEL_HUB])
    else:
        sys.meta_path.insert(0, Finder())


def _base_path(others: Callable[..., Any], cfg_path: str, filename: str) -> Any:
    """Path of a base, and the scope of what is in it: that which the config names itself."""
    if cfg_path.startswith(PREFIX):
        return config_path(cfg_path), None
    package, _, name = cfg_path.partition('::')
    if name.startswith('_base_/'):
        # mmengine looks into all metafiles of the package first, where no such file is named
        spec = importlib.util.find_spec(package)
        path = Path((spec and spec.origin) or '').parent / '.mim' / 'configs' / name
        if path.is_file():
            return str(path), package
    return others(cfg_path, filename)


def _get_config(others: Callable[..., Config], cfg_path: str, pretrained: bool = False) -> Config:
    if not cfg_path.startswith(PREFIX):
        return others(cfg_path, pretrained)
    if pretrained:
        raise UserError(
            f'{cfg_path}: no weights of whole models were released: train one, and '
            'gcvit_mm.load() it'
        )
    cfg = Config.fromfile(config_path(cfg_path))
    if 'default_scope' in cfg:  # get_model takes the name of the package for it
        cfg.model.setdefault('_scope_', cfg.default_scope)
    return cfg


class Finder(MetaPathFinder):
    """Has :func:`_add_classifiers` see mmpretrain's hub of models when that is imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Optional[ModuleSpec]:
        """Find that module; None for others."""
        return spec_and_then(name, path, _add_classifiers) if name == MODEL_HUB else None


def _add_classifiers(module: Any) -> None:
    """Add the classifiers to mmpretrain's models when it first reads its own."""
    hub, register = module.ModelHub, module.ModelHub._register_mmpretrain_models

    def both() -> None:
        register()
        if not hub.has('cls_gcvit_t_300e'):
            for model in module.load(str(home() / 'model-index.yml')).models:
                if model.name.startswith('cls_'):
                    model.config = str(home() / model.config)
                    hub._models_dict[model.name] = model

    hub._register_mmpretrain_models = staticmethod(both)
