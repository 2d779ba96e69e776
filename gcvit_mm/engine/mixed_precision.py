"""Mixed precision where there is no GPU."""

from contextlib import contextmanager
from typing import Iterator

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """bfloat16 on a CPU: mmengine's ``AmpOptimWrapper``, which asks for a GPU, without a scaler.

    bfloat16 reaches as far as float32, so a loss needs no scale. Weights, gradients and states of
    the optimizer stay in float32; checkpoints go from one wrapper to the other.

    Args:
        kwargs: Arguments of mmengine's ``OptimWrapper``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Let the forward pass compute in bfloat16."""
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield

    def load_state_dict(self, state_dict: dict) -> None:
        """Load what this wrapper has saved, or ``AmpOptimWrapper``."""
        super().load_state_dict({k: v for k, v in state_dict.items() if k != 'loss_scaler'})
