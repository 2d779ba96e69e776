"""Window-attention backbones for OpenMMLab.

Importing the package registers everything it offers in the root registries of mmengine:
``custom_imports = dict(imports=['gcvit_mm'])`` in a config is all it takes. It needs neither
compiled mmcv ops nor mmdet, mmseg or mmpretrain. Without torch, mmengine or mmcv there is
:class:`gcvit_mm.deploy.Predictor`, for exported models, and nothing else.
"""

import sys
from importlib.util import find_spec
from typing import Any

from .errors import CheckpointError, UserError
from .version import __version__


def _has(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


_has_all = all(_has(name) for name in ('torch', 'mmengine', 'mmcv'))
# 'python -m gcvit_mm doctor' and 'ops' are there for where the rest does not import.
if _has_all and sys.argv[:2] not in (['-m', 'doctor'], ['-m', 'ops']):
    from .addresses import announce
    from .backbones import GCViT, GGDeiT, GGTransformer, GPViT, GPViTAdapter, ScalableViT
    from .engine import CheckedOptimWrapperConstructor
    from .necks import GroupNeck
    from .ops import stand_in
    from .zoo import create, list_models

    stand_in()
    announce()


def __getattr__(name: str) -> Any:
    """Import what only predicting needs when it is asked for; say what is missing for the rest."""
    if name == 'load' and _has_all:
        from .inference import load

        return load
    if name in __all__:
        raise ImportError(
            f'gcvit_mm.{name} needs torch, mmengine and mmcv: python -m gcvit_mm doctor says what '
            'is missing'
        )
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


__all__ = [
    'CheckedOptimWrapperConstructor',
    'CheckpointError',
    'GCViT',
    'GGDeiT',
    'GGTransformer',
    'GPViT',
    'GPViTAdapter',
    'GroupNeck',
    'ScalableViT',
    'UserError',
    '__version__',
    'create',
    'list_models',
    'load',
]
