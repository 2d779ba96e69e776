"""What the training loops need beside the model."""

from .optim import CheckedOptimWrapperConstructor

__all__ = ['CheckedOptimWrapperConstructor']
