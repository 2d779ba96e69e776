"""What the training loops need beside the model."""

from .layer_decay import LayerDecayOptimWrapperConstructor
from .mixed_precision import CPUAmpOptimWrapper
from .monitoring import CheckBatchSize, StopOnNonFinite
from .optim import CheckedOptimWrapperConstructor
from .saving import SafeCheckpointHook
from .seeding import SeedEveryStep
from .sharding import wrap_blocks
from .stopping import StopOnSignal
