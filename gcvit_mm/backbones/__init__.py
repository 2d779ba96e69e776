"""Backbones, registered in mmengine's root registry so that every scope finds them."""

from .gcvit import GCViT
from .gg_deit import GGDeiT
from .gg_transformer import GGTransformer
from .scalablevit import ScalableViT

__all__ = ['GCViT', 'GGDeiT', 'GGTransformer', 'ScalableViT']
