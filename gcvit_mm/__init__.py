"""Window-attention backbones for OpenMMLab.

Importing the package registers everything it offers in the root registries of mmengine:
``custom_imports = dict(imports=['gcvit_mm'])`` in a config is all it takes. It needs neither
compiled mmcv ops nor mmdet, mmseg or mmpretrain.
"""

import sys
from typing import Any

from .version import __version__

# 'python -m gcvit_mm doctor' and 'ops' are there for where the rest does not import.
if sys.argv[:2] not in (['-m', 'doctor'], ['-m', 'ops']):
    from .addresses import announce
    from .backbones import GCViT, GGDeiT, GGTransformer, GPViT, GPViTAdapter, ScalableViT
    from .engine import CheckedOptimWrapperConstructor
    from .errors import CheckpointError, UserError
    from .necks import GroupNeck
    from .ops import stand_in
    from .zoo import create, list_models

    stand_in()
    announce()


def __getattr__(name: str) -> Any:
    """Import what only predicting needs when it is asked for."""
    if name == 'load':
        from .inference import load

        return load
    raise AttributeError(f"module 'gcvit_mm' has no attribute '{name}'")


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
