"""Backbones, registered in mmengine's root registry so that every scope finds them."""

from .gcvit import GCViT
from .gg_deit import GGDeiT
from .gg_transformer import GGTransformer
from .gpvit import GPViT
from .gpvit_adapter import GPViTAdapter
from .scalablevit import ScalableViT
from .vit_adapter import ViTAdapter

__all__ = [
    'GCViT',
    'GGDeiT',
    'GGTransformer',
    'GPViT',
    'GPViTAdapter',
    'ScalableViT',
    'ViTAdapter',
]
