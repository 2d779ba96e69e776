"""ScalableViT, written from the paper.

ScalableViT: Rethinking the Context-oriented Generalization of Vision Transformer, Yang et al.,
ECCV 2022 (arXiv 2203.10790).

Blocks alternate between attention in windows whose values also pass through a convolution over
the whole map, so that windows interact (IWSA), and attention of all tokens to a map reduced in
space and scaled in channels (SSA). The authors released a classifier for multiples of 224 only;
this takes any size. Where paper and release differ, this follows the release.
"""

from typing import Any, Sequence, Union

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn
from typing_extensions import Unpack

from ..layers import (
    Block,
    ImageConv,
    ShiftedWindowAttention,
    Stage,
    WindowAttention,
    build_channels_last_norm,
    convolve,
    crop,
    depthwise_conv,
    join_heads,
    merge,
    pad_to_windows,
    partition,
    split_heads,
    to_2tuple,
)
from ..layers.attention import attention
from .base import BackboneArgs, BaseBackbone

ATTENTIONS = ('iwsa', 'wsa', 'swsa', 'ssa')
INTERACTIONS = ('lim', 'lem', 'none')


class PatchEmbed(nn.Module):
    """Strided convolution and norm: from the image to the first map.

    Args:
        in_dims: Input channels.
        out_dims: Output channels.
        kernel_size: Side of the convolution.
        stride: Stride; the padding is ``kernel_size // 2``.
        norm_cfg: Config of the norm.
        drop_rate: Dropout after the norm.
    """

    conv = ImageConv

    def __init__(
        self,
        in_dims: int,
        out_dims: int,
        kernel_size: int,
        stride: int,
        norm_cfg: dict,
        drop_rate: float,
    ) -> None:
        super().__init__()
        self.proj = self.conv(in_dims, out_dims, kernel_size, stride, kernel_size // 2)
        self.norm = build_channels_last_norm(norm_cfg, out_dims)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, C, H, W) -> map (B, ceil(H / stride), ceil(W / stride), C')."""
        return self.drop(self.norm(self.proj(x).permute(0, 2, 3, 1)))


class Downsample(PatchEmbed):
    """The same from a map to the next resolution."""

    conv = nn.Conv2d  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), C')."""
        return super().forward(x.permute(0, 3, 1, 2))


class LEMAttention(WindowAttention):
    """Window attention whose convolution of the values sees each window by itself (Table 5b)."""

    def _convolve(self, conv: nn.Module, values: Tensor) -> Tensor:
        height, width = values.shape[1:3]
        values = pad_to_windows(values, self.window_size)
        windows = partition(values, self.window_size)  # (B, nW, N, C)
        maps = windows.view(-1, *self.window_size, windows.shape[-1])  # (B * nW, h, w, C)
        convolved = convolve(conv, maps).reshape(windows.shape)
        return crop(merge(convolved, self.window_size, *values.shape[1:3]), height, width)


class ScalableAttention(nn.Module):
    """Scalable self-attention (SSA): all tokens attend to a reduced map (paper, equations 2 and 3).

    Queries and keys have ``embed_dims * c_ratio`` channels. A map whose sides are no multiples
    of ``sr_ratio`` is zero-padded before it is reduced, so that no border is lost.

    Args:
        embed_dims: Channels C.
        num_heads: Attention heads; divides C and the scaled channels.
        sr_ratio: Side s of the squares that become one key. With 1 nothing is reduced and the
            channels are not scaled, but the ratio still enters the scale, as in the release.
        c_ratio: Channels of queries and keys over C.
        attn_drop_rate: Dropout of attention weights.
        proj_drop_rate: Dropout after the output projection.

    Raises:
        ValueError: If the heads do not divide the channels.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        sr_ratio: int,
        c_ratio: float,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        scaled_dims = int(embed_dims * c_ratio) if sr_ratio > 1 else embed_dims
        if embed_dims % num_heads or scaled_dims % num_heads:
            raise ValueError(
                f'num_heads ({num_heads}) must divide embed_dims ({embed_dims}) and '
                f'embed_dims * c_ratio ({scaled_dims})'
            )
        self.num_heads = num_heads
        self.sr_ratio = sr_ratio
        self.scale = (embed_dims // num_heads * c_ratio) ** -0.5
        self.attn_drop_rate = attn_drop_rate
        self.q = nn.Linear(embed_dims, scaled_dims)
        if sr_ratio > 1:
            self.reduction = nn.Sequential(
                nn.Conv2d(embed_dims, embed_dims, sr_ratio, sr_ratio, groups=embed_dims),
                nn.Conv2d(embed_dims, scaled_dims, 1),
            )
            self.norm = nn.LayerNorm(scaled_dims)
            self.k = nn.Linear(scaled_dims, scaled_dims)
            self.v = nn.Linear(scaled_dims, embed_dims)
        else:
            self.kv = nn.Linear(embed_dims, 2 * embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) -> (B, H, W, C)."""
        if self.sr_ratio > 1:
            padded = pad_to_windows(x, (self.sr_ratio, self.sr_ratio))
            reduced = F.gelu(self.norm(convolve(self.reduction, padded)))
            k, v = self.k(reduced), self.v(reduced)
        else:
            k, v = self.kv(x).chunk(2, dim=-1)
        q, k, v = (split_heads(t.flatten(1, 2), self.num_heads) for t in (self.q(x), k, v))
        dropout = self.attn_drop_rate if self.training else 0.0
        out = join_heads(attention(q, k, v, scale=self.scale, dropout=dropout))
        return self.proj_drop(self.proj(out.view(x.shape)))


class ScalableViTStage(Stage):
    """Blocks of one resolution, a position encoding after the first, and the next embedding.

    Args:
        blocks: The blocks.
        embed_dims: Channels C.
        peg: Add a depthwise 3x3 convolution of the map after the first block.
        kwargs: More arguments of :class:`gcvit_mm.layers.Stage`.
    """

    def __init__(self, blocks: Sequence[Block], embed_dims: int, peg: bool, **kwargs: Any) -> None:
        super().__init__(blocks, **kwargs)
        self.peg = depthwise_conv(embed_dims, 3) if peg else None
        # behind it, as in the optimizer states of earlier runs
        self.downsample = self._modules.pop('downsample', None)

    def after_block(self, index: int, x: Tensor) -> Tensor:
        """Add the position encoding to the map (B, H, W, C) behind the first block."""
        return x if index or self.peg is None else x + convolve(self.peg, x)


def _archs() -> dict:
    usual = dict(sr_ratios=(8, 4, 2, 1), mlp_ratio=4.0, window_size=7)
    small = dict(usual, embed_dims=(64, 128, 256, 512), num_heads=(2, 4, 8, 16))
    base = dict(usual, embed_dims=(96, 192, 384, 768), num_heads=(3, 6, 12, 24))
    large = dict(usual, embed_dims=(128, 256, 512, 1024), num_heads=(4, 8, 16, 32))
    return dict(
        small=dict(small, depths=(2, 2, 20, 2), c_ratios=(1.25, 1.25, 1.25, 1), drop_path_rate=0.2),
        base=dict(base, depths=(2, 2, 14, 6), c_ratios=(2, 1.25, 1.25, 1), drop_path_rate=0.5),
        large=dict(large, depths=(2, 6, 12, 4), c_ratios=(0.25, 0.5, 1, 1), drop_path_rate=0.5),
    )


@MODELS.register_module()
class ScalableViT(BaseBackbone):
    """ScalableViT.

    Takes images of any size; maps have strides 4, 8, 16, 32 and sides ceil(side / stride).

    Args:
        arch: 'small', 'base' or 'large' (paper, Table 1), or a dict with the keys
            ``embed_dims``, ``depths``, ``num_heads``, ``c_ratios`` (channels of queries and
            keys over those of the map), ``sr_ratios``, ``mlp_ratio``, ``window_size``,
            ``drop_path_rate``.
        attn_kinds: Attention of the even and of the odd blocks, each 'iwsa', 'wsa' (windows
            without interaction), 'swsa' (windows shifted by half their side, as Swin's; not in the
            last stage, whose map is one window at 224) or 'ssa' (paper, Table 5a).
        interaction: Convolution over the values of 'iwsa': 'lim' on the whole map, 'lem'
            inside each window, 'none' (Tables 5b and 7).
        peg: Position encoding after the first block of each stage (Table 5b).
        c_ratios: One ratio, or one a stage, instead of those of the arch.
        attn_drop_rate: Dropout of attention weights.
        common: ``in_channels``, ``out_indices``, ``drop_rate``, ``drop_path_rate``,
            ``frozen_stages``, ``with_cp``, ``compile``, ``norm_cfg`` (of all norms but the one
            inside SSA), ``init_cfg`` ('Pretrained' takes the authors' and our layout), see
            :class:`~gcvit_mm.backbones.base.BaseBackbone`.

    Raises:
        TypeError: For unknown arguments.
        ValueError: For values out of range.

    Example:
        >>> import torch
        >>> from gcvit_mm import ScalableViT
        >>> model = ScalableViT('small').eval()
        >>> [tuple(out.shape) for out in model(torch.zeros(1, 3, 65, 97))]
        [(1, 64, 17, 25), (1, 128, 9, 13), (1, 256, 5, 7), (1, 512, 3, 4)]
    """

    arch_zoo = _archs()

    default_norm = dict(type='LN', eps=1e-6)

    def __init__(
        self,
        arch: Union[str, dict] = 'small',
        attn_kinds: Sequence[str] = ('iwsa', 'ssa'),
        interaction: str = 'lim',
        peg: bool = True,
        c_ratios: Union[float, Sequence[float], None] = None,
        attn_drop_rate: float = 0.0,
        **common: Unpack[BackboneArgs],
    ) -> None:
        super().__init__(arch, **common)
        settings, norm_cfg, drop_rate = self.arch_settings, self.norm_cfg, self.drop_rate
        if len(attn_kinds) != 2 or not set(attn_kinds) <= set(ATTENTIONS):
            raise ValueError(f'attn_kinds must be two of {ATTENTIONS}, got {attn_kinds!r}')
        if interaction not in INTERACTIONS:
            raise ValueError(f'interaction must be one of {INTERACTIONS}, got {interaction!r}')
        embed_dims = self.per_stage(settings['embed_dims'], 'embed_dims')
        num_heads = self.per_stage(settings['num_heads'], 'num_heads')
        sr_ratios = self.per_stage(settings['sr_ratios'], 'sr_ratios')
        c_ratios = self.per_stage(
            settings['c_ratios'] if c_ratios is None else c_ratios, 'c_ratios'
        )
        windows = self.per_stage(settings['window_size'], 'window_size')
        drops: dict = dict(attn_drop_rate=attn_drop_rate, proj_drop_rate=drop_rate)

        def build_attention(stage: int, kind: str) -> nn.Module:
            if kind == 'ssa':
                return ScalableAttention(
                    embed_dims[stage], num_heads[stage], sr_ratios[stage], c_ratios[stage], **drops
                )
            window = to_2tuple(windows[stage], f'window_size[{stage}]')
            sizes = (embed_dims[stage], num_heads[stage], window)
            options: dict = dict(drops, rel_pos_bias=False, mask_padding=True)
            if kind == 'swsa' and stage + 1 < self.num_stages:
                return ShiftedWindowAttention(*sizes, offset=(window[0] + 1) // 2, **options)
            interacting = kind == 'iwsa' and interaction != 'none'
            cls = LEMAttention if interaction == 'lem' else WindowAttention
            return cls(*sizes, v_kernel=3 if interacting else 0, **options)

        self.patch_embed = PatchEmbed(self.in_channels, embed_dims[0], 7, 4, norm_cfg, drop_rate)
        self.stages = nn.ModuleList()
        for i, drop_paths in enumerate(self.drop_paths()[: self.num_built_stages]):
            blocks = [
                Block(
                    build_attention(i, attn_kinds[j % 2]),
                    embed_dims[i],
                    settings['mlp_ratio'],
                    norm_cfg,
                    drop_path=drop_path,
                    drop_rate=drop_rate,
                )
                for j, drop_path in enumerate(drop_paths)
            ]
            downsample = None
            if i + 1 < self.num_built_stages:
                downsample = Downsample(embed_dims[i], embed_dims[i + 1], 3, 2, norm_cfg, drop_rate)
            self.stages.append(
                ScalableViTStage(
                    blocks, embed_dims[i], peg, downsample=downsample, with_cp=self.recomputed[i]
                )
            )
        self.finish(embed_dims)

    @staticmethod
    def init_module(module: nn.Module) -> None:
        """Initialise one layer: Linear as all families, convolutions normal by fan-out."""
        BaseBackbone.init_module(module)
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
