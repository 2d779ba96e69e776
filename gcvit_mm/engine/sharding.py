"""Parts of a model: which are sharded and gathered one by one, and which a process keeps."""

from typing import Any

import torch
from mmengine.registry import FUNCTIONS
from torch import Tensor, nn

from ..backbones.gpvit import ConvBlock
from ..backbones.group_propagation import GPBlock
from ..layers import Block

BLOCKS = (Block, GPBlock, ConvBlock)


@FUNCTIONS.register_module()
def wrap_blocks(module: nn.Module, recurse: bool, nonwrapped_numel: int, **kwargs) -> bool:
    """FSDP's question about a module, for ``auto_wrap_policy``: every block is a unit.

    Args:
        module: A module of the model.
        recurse: Whether it is asked if to look inside the module (always), or if to wrap it.
        nonwrapped_numel: Numbers of parameters not in a unit yet; not used.
        kwargs: What other releases of torch ask with; not used.
    """
    return recurse or isinstance(module, BLOCKS)


def part_of(reference: Any, value: Tensor) -> Tensor:
    """The part of a whole tensor that this process keeps of one like it, in the same order.

    torch's fused optimizers on CPUs read weight, gradient and moments in the order of memory, and
    sharded training writes contiguous ones beside channels-last weights.
    """
    if hasattr(value, 'full_tensor'):  # it is one already
        return value
    if not hasattr(reference, 'full_tensor'):
        if value.stride() == reference.stride():
            return value
        return torch.empty_like(reference, dtype=value.dtype, device=value.device).copy_(value)
    from torch.distributed.tensor import distribute_tensor

    value = value.to(reference.device, reference.dtype)
    return distribute_tensor(value, reference.device_mesh, reference.placements)


def own_moments(optimizer: Any, saved: dict) -> None:
    """Let the moments in the state of an optimizer of all weights be those of this process.

    Args:
        optimizer: torch's optimizer of the run.
        saved: The state, from a checkpoint; changed in place.
    """
    for own, group in zip(optimizer.param_groups, saved['param_groups']):
        for weight, number in zip(own['params'], group['params']):
            state = saved['state'].get(number, {})
            for key, value in state.items():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    state[key] = part_of(weight, value)
