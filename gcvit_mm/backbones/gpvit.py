"""GPViT, written from the paper (arXiv 2212.06795) and the released checkpoints' shapes.

All layers work at stride 8. Most attend locally, inside stripes two tokens wide; some let group
tokens collect from all tokens, talk to each other, and hand back. Sections and equations below are
the paper's.
"""

from typing import Any, Dict, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS
from torch import Tensor, nn
from typing_extensions import Unpack

from ..layers import (
    Block,
    DropPath,
    GlobalAttention,
    ImageConv,
    PositionEmbedding,
    ShiftedWindowAttention,
    WindowAttention,
    convolve,
    crop,
    depthwise_conv,
    join_heads,
    key_mask,
    known_equal,
    merge,
    pad_image,
    pad_to_windows,
    partition,
    run_block,
    split_qkv,
)
from ..layers.attention import attention
from .base import BackboneArgs, BaseBackbone
from .group_propagation import PROPAGATIONS, GPBlock

LOCAL_KINDS = ('lepe', 'window', 'attention')
GLOBAL_KINDS = ('gp', 'attention', 'conv', 'shift', 'none')
WINDOW = (7, 7)  # of the square windows that the ablations compare with


class PatchEmbed(nn.Module):
    """Convolutional stem: stride 2, then patches of its map, 4 x 4 for a stride of 8.

    Args:
        in_channels: Channels of the image.
        embed_dims: Channels of the tokens.
        num_convs: 3x3 convolutions between the first and the patches.
        patch_size: Stride of the map, even.
        norm_cfg: Config of the norms after the convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        num_convs: int,
        norm_cfg: dict,
        patch_size: int = 8,
        hidden: int = 64,
    ) -> None:
        super().__init__()
        self.side = patch_size // 2  # of a patch of the map of stride 2

        def conv(in_dims: int, kernel_size: int, stride: int, cls: Any = nn.Conv2d) -> list:
            return [
                cls(in_dims, hidden, kernel_size, stride, kernel_size // 2, bias=False),
                build_norm_layer(norm_cfg, hidden)[1],
                nn.ReLU(inplace=True),
            ]

        self.stem = nn.Sequential(*conv(in_channels, 7, 2, ImageConv))
        convs = [layer for _ in range(num_convs) for layer in conv(hidden, 3, 1)]
        self.convs = nn.Sequential(*convs)
        self.projection = nn.Conv2d(hidden, embed_dims, self.side, self.side)

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, in_channels, H, W) -> map (B, ceil(H / patch), ceil(W / patch), C)."""
        x = pad_image(self.convs(self.stem(x)), self.side)
        return self.projection(x).permute(0, 2, 3, 1)


class StripeAttention(nn.Module):
    """Attention in vertical stripes for half of the channels, in horizontal ones for the rest.

    A depthwise convolution over the values of each stripe (locally-enhanced positional encoding)
    is added to what the attention gives. At odd sides the last stripe is narrower.

    Args:
        embed_dims: Channels C.
        num_heads: Heads of both halves together.
        stripe: Width of a stripe in tokens.
    """

    def __init__(self, embed_dims: int, num_heads: int, stripe: int = 2) -> None:
        super().__init__()
        if num_heads % 2 or embed_dims % num_heads or stripe < 1:
            raise ValueError(
                f'num_heads ({num_heads}) must be even and divide embed_dims ({embed_dims}), and '
                f'stripe ({stripe}) be positive'
            )
        self.num_heads = num_heads // 2
        self.stripe = stripe
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.v_convs = nn.ModuleList(depthwise_conv(embed_dims // 2, 3) for _ in range(2))
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) -> (B, H, W, C)."""
        height, width, channels = x.shape[1:]
        sizes = (height, self.stripe), (self.stripe, width)
        # A product for each half: splitting the map that one product gives would copy it.
        weight = self.qkv.weight.view(3, 2, channels // 2, channels)
        bias = self.qkv.bias.view(3, 2, channels // 2)
        halves = [
            self._attend(
                F.linear(x, weight[:, i].flatten(0, 1), bias[:, i].flatten()),
                size,
                self.v_convs[i],
            )
            for i, size in enumerate(sizes)
        ]
        return self.proj(torch.cat(halves, -1))

    def _attend(self, qkv: Tensor, size: Tuple[int, int], v_conv: nn.Module) -> Tensor:
        """Map (B, H, W, 3C') of queries, keys and values -> (B, H, W, C')."""
        b, height, width, _ = qkv.shape
        padded = pad_to_windows(qkv, size)
        hp, wp = padded.shape[1:3]
        windows = partition(padded, size)  # (B, nW, N, 3C')
        num = windows.shape[1]
        q, k, v = split_qkv(windows.flatten(0, 1), self.num_heads)
        mask = None
        if not known_equal((hp, wp), (height, width)):
            mask = key_mask(q, height, width, size)
        out = join_heads(attention(q, k, v, mask))  # (B * nW, N, C')
        values = join_heads(v).view(b * num, *size, out.shape[-1])
        out = (out + convolve(v_conv, values).flatten(1, 2)).view(b, num, *out.shape[1:])
        return crop(merge(out, size, hp, wp), height, width)


class LocalBlock(Block):
    """Stripe attention, MLP, and a depthwise convolution at the end (Section 3.1)."""

    def __init__(self, attn: nn.Module, embed_dims: int, **kwargs: Any) -> None:
        super().__init__(attn, embed_dims, **kwargs)
        self.dw = depthwise_conv(embed_dims, 3, bias=False)

    def forward(self, x: Tensor, *attn_args: Any) -> Tensor:
        """Map (B, H, W, C) -> (B, H, W, C)."""
        return convolve(self.dw, super().forward(x, *attn_args))


class ConvBlock(nn.Module):
    """Two 3x3 convolutions with one residual, in place of a whole layer (Table 7)."""

    def __init__(self, embed_dims: int, norm_cfg: dict, drop_path: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(embed_dims, embed_dims, 3, padding=1, bias=False)
        self.norm = build_norm_layer(norm_cfg, embed_dims)[1]
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(embed_dims, embed_dims, 3, padding=1)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) -> (B, H, W, C)."""
        y = x.permute(0, 3, 1, 2)
        y = self.conv2(self.act(self.norm(self.conv1(y))))
        return x + self.drop_path(y.permute(0, 2, 3, 1))


def _archs() -> dict:
    usual = dict(
        depth=12,
        num_heads=12,
        group_heads=6,
        groups={1: 64, 4: 32, 7: 32, 10: 16},
        mlp_ratio=4.0,
        stripe=2,
    )
    archs = dict(
        L1=dict(usual, embed_dims=216, stem_convs=0, drop_path_rate=0.2),
        L2=dict(usual, embed_dims=348, stem_convs=1, drop_path_rate=0.2),
        L3=dict(usual, embed_dims=432, stem_convs=1, drop_path_rate=0.3),
        L4=dict(usual, embed_dims=624, stem_convs=2, drop_path_rate=0.3),
    )
    plain = {f'D{arch["embed_dims"]}': dict(arch, groups={}) for arch in archs.values()}
    return {**archs, **plain}


class GPViTArgs(BackboneArgs, total=False):
    """The arguments of :class:`GPViT` but for its arch."""

    img_size: int
    patch_size: int
    local_attn: Optional[str]
    global_attn: str
    groups: Union[Dict[int, int], Sequence[int], None]
    propagation: str
    rel_pos_bias: bool
    group_norm_cfg: Optional[dict]
    conv_norm_cfg: Optional[dict]


@MODELS.register_module()
class GPViT(BaseBackbone):
    """GPViT: every map has stride 8, or that of ``patch_size``.

    Takes images of any size; maps have sides ceil(side / 8).

    Args:
        arch: 'L1' to 'L4' (paper, Table 1), 'D216', 'D348', 'D432', 'D624' (the plain transformers
            ViT-D of Tables 6 and 10: all layers attend among all tokens), or a dict with the keys
            ``embed_dims``, ``depth``, ``num_heads`` (of local layers), ``group_heads``, ``groups``
            (layer: number of group tokens), ``mlp_ratio``, ``stripe`` (width in tokens),
            ``stem_convs``, ``drop_path_rate``.
        img_size: Side of the image for which position embeddings are created; others are
            resized (bicubic).
        patch_size: Stride of the maps, an even number of pixels (16: the rows P16).
        local_attn: Attention of the local layers: 'lepe' (stripes), 'window' (7 x 7) or 'attention'
            (among all tokens) (Tables 6 and 7). Default: 'lepe', of the plain archs 'attention'.
        global_attn: What stands in the layers of ``groups``: 'gp', 'attention' (among all
            tokens), 'conv', 'shift' (windows moved by three) or 'none' (a local layer)
            (Table 7).
        groups: Group tokens a layer instead of those of the arch: a dict, or as many numbers as
            the arch has GP layers (Table 8).
        propagation: Among the group tokens of 'gp': 'mixer', 'attention' or 'none' (Table 9).
        rel_pos_bias: Learned relative position bias of windows, shifted or not. Section 4.4 has the
            windows of Swin, which has it, and does not say whether it was kept.
        group_norm_cfg: Config of the norms of tokens in GP layers.
        conv_norm_cfg: Config of the norms of convolutions.
        common: ``in_channels``, ``out_indices`` (layers, default the last), ``drop_rate``,
            ``drop_path_rate``, ``frozen_stages`` (0 stem and embeddings, i those and the first i
            layers), ``with_cp`` (layers), ``compile``, ``norm_cfg`` (of local layers and
            outputs), ``init_cfg`` ('Pretrained' takes the authors' and our layout), see
            :class:`~gcvit_mm.backbones.base.BaseBackbone`.

    Raises:
        TypeError: For unknown arguments.
        ValueError: For values out of range.

    Example:
        >>> import torch
        >>> from gcvit_mm import GPViT
        >>> model = GPViT('L1', out_indices=(2, 5, 8, 11)).eval()
        >>> [tuple(out.shape) for out in model(torch.zeros(1, 3, 65, 97))]
        [(1, 216, 9, 13), (1, 216, 9, 13), (1, 216, 9, 13), (1, 216, 9, 13)]
    """

    arch_zoo = _archs()
    default_out_indices = (-1,)
    default_norm = dict(type='LN', eps=1e-6)

    def __init__(
        self,
        arch: Union[str, dict] = 'L1',
        img_size: int = 224,
        patch_size: int = 8,
        local_attn: Optional[str] = None,
        global_attn: str = 'gp',
        groups: Union[Dict[int, int], Sequence[int], None] = None,
        propagation: str = 'mixer',
        rel_pos_bias: bool = False,
        group_norm_cfg: Optional[dict] = None,
        conv_norm_cfg: Optional[dict] = None,
        **common: Unpack[BackboneArgs],
    ) -> None:
        super().__init__(arch, **common)
        if local_attn is None:
            local_attn = 'attention' if self.arch.startswith('D') else 'lepe'
        for name, value, known in (
            ('local_attn', local_attn, LOCAL_KINDS),
            ('global_attn', global_attn, GLOBAL_KINDS),
            ('propagation', propagation, PROPAGATIONS),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {known}, got '{value}'")
        if not isinstance(img_size, int) or img_size < 1:
            raise ValueError(f'img_size must be the side of a square image, got {img_size!r}')
        if not isinstance(patch_size, int) or patch_size < 2 or patch_size % 2:
            raise ValueError(f'patch_size must be an even number of pixels, got {patch_size!r}')
        self.group_norm_cfg = group_norm_cfg or dict(type='LN', eps=1e-5)
        self.conv_norm_cfg = conv_norm_cfg or dict(type='BN')
        settings = self.arch_settings
        self.groups = self._resolve_groups(groups)
        self.kinds = (local_attn, global_attn, propagation)
        embed_dims = settings['embed_dims']
        self.patch_size, self.rel_pos_bias = patch_size, rel_pos_bias
        self.patch_embed = PatchEmbed(
            self.in_channels, embed_dims, settings['stem_convs'], self.conv_norm_cfg, patch_size
        )
        self.pos_embed = PositionEmbedding(embed_dims, -(-img_size // patch_size))
        self.pos_drop = nn.Dropout(self.drop_rate)
        self.layers = nn.ModuleList(
            self._build_layer(i, drop_path)
            for i, (drop_path,) in enumerate(self.drop_paths()[: self.num_built_stages])
        )
        self._finish_layers([embed_dims] * len(self.depths))

    def _finish_layers(self, embed_dims: Sequence[int]) -> None:
        self.finish(embed_dims)

    @property
    def num_stages(self) -> int:  # type: ignore[override]
        """Number of layers: each can be frozen or give a map, as a stage of the other families."""
        return self.arch_settings['depth']

    @property
    def depths(self) -> Tuple[int, ...]:
        """One block a layer."""
        return (1,) * self.num_stages

    @property
    def stages(self) -> nn.ModuleList:
        """The layers."""
        return self.layers

    def _resolve_groups(self, groups: Union[Dict[int, int], Sequence[int], None]) -> Dict[int, int]:
        usual = self.arch_settings['groups']
        if groups is None:
            groups = usual
        elif isinstance(groups, (list, tuple)) and len(groups) == len(usual):
            groups = dict(zip(usual, groups))
        if isinstance(groups, dict):  # a config that was written to a file has strings as keys
            groups = {int(k) if str(k).isdecimal() else k: n for k, n in groups.items()}
        valid = isinstance(groups, dict) and all(
            layer in range(self.num_stages) and isinstance(count, int) and count > 0
            for layer, count in groups.items()
        )
        if not valid:
            raise ValueError(
                f'groups must give a positive number of group tokens for some of the layers 0..'
                f'{self.num_stages - 1}, or be {len(usual)} such numbers, got {groups!r}'
            )
        return dict(groups)  # type: ignore[arg-type]

    def _build_layer(self, index: int, drop_path: float) -> nn.Module:
        settings = self.arch_settings
        local_attn, global_attn, propagation = self.kinds
        embed_dims, num_heads = settings['embed_dims'], settings['num_heads']
        common: Dict[str, Any] = dict(
            embed_dims=embed_dims,
            mlp_ratio=settings['mlp_ratio'],
            drop_path=drop_path,
            drop_rate=self.drop_rate,
        )
        if index in self.groups and global_attn == 'gp':
            return GPBlock(
                num_groups=self.groups[index],
                num_heads=settings['group_heads'],
                propagation=propagation,
                norm_cfg=self.group_norm_cfg,
                conv_norm_cfg=self.conv_norm_cfg,
                **common,
            )
        kind = global_attn if index in self.groups and global_attn != 'none' else local_attn
        if kind == 'conv':
            return ConvBlock(embed_dims, self.conv_norm_cfg, drop_path)
        common.update(norm_cfg=self.norm_cfg)
        if kind == 'lepe':
            return LocalBlock(StripeAttention(embed_dims, num_heads, settings['stripe']), **common)
        if kind == 'attention':
            return Block(GlobalAttention(embed_dims, num_heads), **common)
        window: Dict[str, Any] = dict(rel_pos_bias=self.rel_pos_bias, mask_padding=True)
        if kind == 'window':
            return Block(WindowAttention(embed_dims, num_heads, WINDOW, **window), **common)
        # windows moved by three begin four tokens before the map
        attn = ShiftedWindowAttention(embed_dims, num_heads, WINDOW, offset=4, **window)
        return Block(attn, **common)

    def embed(self, x: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) -> map (B, h, w, C) with its position embeddings."""
        x = self.patch_embed(x)
        return self.pos_drop(x + self.pos_embed(x.shape[1:3]).view(1, *x.shape[1:]))

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Compute the maps of ``out_indices``.

        Args:
            x: Images (B, in_channels, H, W).

        Returns:
            For every layer of ``out_indices`` a map (B, C, ceil(H / 8), ceil(W / 8)).

        Raises:
            ValueError: If ``x`` has another number of dimensions or channels.
        """
        self.check_image(x)
        x = self.embed(x)
        outs = []
        for i, layer in enumerate(self.layers):
            x = run_block(layer, self.recomputed[i], x)
            if i in self.out_indices:
                outs.append(self.output(x, i))
        return tuple(outs)
