"""Building blocks in plain torch that know no family."""

from .attention import (
    GlobalAttention,
    ShiftedWindowAttention,
    WindowAttention,
    check_heads,
    join_heads,
    split_heads,
    split_qkv,
)
from .block import Block, build_channels_last_norm
from .conv import (
    ImageConv,
    MBConv,
    SqueezeExcite,
    convolve,
    depthwise_conv,
    halving_conv,
    halving_max_pool,
)
from .deform_attn import DeformableAttention
from .drop_path import DropPath
from .fitting import Fitted
from .mlp import Mlp
from .position import PositionEmbedding
from .rel_pos import RelativePositionBias, relative_position_index, resize_bias_table
from .stage import Stage, run_block
from .tracing import is_compiling, known_equal, resize_cubic
from .window import (
    crop,
    key_mask,
    merge,
    pad_image,
    pad_to_windows,
    padded_size,
    padding_mask,
    partition,
    to_2tuple,
)
