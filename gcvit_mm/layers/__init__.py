"""Building blocks in plain torch that know no family."""

from .attention import (
    RelativePositionBias,
    WindowAttention,
    relative_position_index,
    resize_bias_table,
)
from .conv import MBConv, SqueezeExcite, halving_conv
from .mlp import Mlp
from .window import merge, pad_to_windows, padded_size, padding_mask, partition, to_2tuple

__all__ = [
    'MBConv',
    'Mlp',
    'RelativePositionBias',
    'SqueezeExcite',
    'WindowAttention',
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
