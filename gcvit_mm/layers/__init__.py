"""Building blocks in plain torch that know no family."""

from .attention import (
    RelativePositionBias,
    WindowAttention,
    relative_position_index,
    resize_bias_table,
)
from .block import Block, build_channels_last_norm
from .conv import MBConv, SqueezeExcite, depthwise_conv, halving_conv
from .mlp import Mlp
from .window import merge, pad_to_windows, padded_size, padding_mask, partition, to_2tuple

__all__ = [
    'Block',
    'MBConv',
    'Mlp',
    'RelativePositionBias',
    'SqueezeExcite',
    'WindowAttention',
    'build_channels_last_norm',
    'depthwise_conv',
    'halving_conv',
    'merge',
    'pad_to_windows',
    'padded_size',
    'padding_mask',
    'partition',
    'relative_position_index',
    'resize_bias_table',
    'to_2tuple',
]
