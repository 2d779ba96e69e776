"""What one block costs, against the size of the image and the channels (GPViT, Figure 5)."""

from typing import Dict, NamedTuple, Sequence, Tuple

import torch
from torch import nn

from ..backbones import GPViT
from .complexity import count_call

STRIDE = 8  # of the map that the blocks get, as in GPViT
HEADS, GROUP_HEADS = 12, 6
GROUPS = (16, 32, 64)
# Blocks by name: group tokens (0: none), and the attention of a block without them.
BLOCKS: Dict[str, Tuple[int, str]] = {
    **{f'GP block, {groups} groups': (groups, 'attention') for groups in GROUPS},
    'attention': (0, 'attention'),
    'windows of 7': (0, 'window'),
    'stripes of 2': (0, 'lepe'),
}


class Cost(NamedTuple):
    """What a block costs.

    Attributes:
        block: Key of :data:`BLOCKS`.
        channels: Channels of its map.
        height: Height of the image.
        width: Width of the image.
        gmacs: Multiply-accumulates in G, see :func:`gcvit_mm.planning.complexity.count_macs`.
        gmacs_without: The same without the products of attention.
    """

    block: str
    channels: int
    height: int
    width: int
    gmacs: float
    gmacs_without: float


def build_block(name: str, channels: int) -> nn.Module:
    """Build a whole block on the meta device: attention or groups, MLP, convolution.

    Args:
        name: Key of :data:`BLOCKS`.
        channels: Channels, a multiple of the heads (12).

    Raises:
        ValueError: If they are not.
    """
    groups, local_attn = BLOCKS[name]
    arch = dict(
        embed_dims=channels,
        depth=1,
        num_heads=HEADS,
        group_heads=GROUP_HEADS,
        groups={0: groups} if groups else {},
        mlp_ratio=4.0,
        stripe=2,
        stem_convs=0,
        drop_path_rate=0.0,
    )
    with torch.device('meta'):
        return GPViT(arch, local_attn=local_attn).layers[0].eval()


def count_blocks(channels: Sequence[int], sizes: Sequence[Tuple[int, int]]) -> Sequence[Cost]:
    """Count all blocks at all channels and sizes.

    Args:
        channels: Numbers of channels.
        sizes: ``(height, width)`` of images; the map has a cell for every 8 x 8 pixels of one.

    Raises:
        ValueError: For channels that the heads do not divide.
    """
    costs = []
    for name in BLOCKS:
        for dims in channels:
            block = build_block(name, dims)
            for height, width in sizes:
                x = torch.zeros(1, -(-height // STRIDE), -(-width // STRIDE), dims, device='meta')
                _, gmacs, without = count_call(block, x)
                costs.append(Cost(name, dims, height, width, gmacs, without))
    return costs
