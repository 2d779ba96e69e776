"""Building blocks in plain torch that know no family."""

from .attention import GlobalAttention, WindowAttention
from .block import Block, build_channels_last_norm
from .conv import MBConv, SqueezeExcite, convolve, depthwise_conv, halving_conv, halving_max_pool
from .deform_attn import DeformableAttention
from .mlp import Mlp
from .position import PositionEmbedding
from .rel_pos import RelativePositionBias, relative_position_index, resize_bias_table
from .window import (
    crop,
    known_equal,
    merge,
    pad_image,
    pad_to_windows,
    padded_size,
    padding_mask,
    partition,
    to_2tuple,
)

__all__ = [
    'Block',
    'DeformableAttention',
    'GlobalAttention',
    'MBConv',
    'Mlp',
    'PositionEmbedding',
    'RelativePositionBias',
    'SqueezeExcite',
    'WindowAttention',
    'build_channels_last_norm',
    'convolve',
    'crop',
    'depthwise_conv',
    'halving_conv',
    'halving_max_pool',
    'known_equal',
    'merge',
    'pad_image',
    'pad_to_windows',
    'padded_size',
    'padding_mask',
    'partition',
    'relative_position_index',
    'resize_bias_table',
    'to_2tuple',
]
