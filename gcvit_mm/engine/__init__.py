"""What the training loops need beside the model."""

from .hooks import CheckBatchSize, SeedEveryStep, StopOnNonFinite
from .optim import CheckedOptimWrapperConstructor
from .resume import SafeCheckpointHook

__all__ = [
    'CheckBatchSize',
    'CheckedOptimWrapperConstructor',
    'SafeCheckpointHook',
    'SeedEveryStep',
    'StopOnNonFinite',
]
