"""Backbones, registered in mmengine's root registry so that every scope finds them."""

from .gcvit import GCViT

__all__ = ['GCViT']
