"""Which parts of a model FSDP shards and gathers one by one."""

from mmengine.registry import FUNCTIONS
from torch import nn

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
