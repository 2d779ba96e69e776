"""What the training loops need beside the model."""

from .hooks import CheckBatchSize, SeedEveryStep, StopOnNonFinite
from .layer_decay import LayerDecayOptimWrapperConstructor
from .optim import CheckedOptimWrapperConstructor
from .resume import SafeCheckpointHook
from .sharding import wrap_blocks

__all__ = [
    'CheckBatchSize',
    'CheckedOptimWrapperConstructor',
    'LayerDecayOptimWrapperConstructor',
    'SafeCheckpointHook',
    'SeedEveryStep',
    'StopOnNonFinite',
    'wrap_blocks',
]
