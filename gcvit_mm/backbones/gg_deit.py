"""Glance-and-gaze attention in DeiT, written from the paper (arXiv 2106.02277, Table 4c).

The paper replaces DeiT's attention and says no more. Decided here: the tokens of a partition also
attend to the class token; the class token attends to all tokens; the gaze convolution sees patch
tokens only; there is no relative position bias, as in DeiT.
"""

from typing import Optional, Tuple, Union

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.init import trunc_normal_
from typing_extensions import Unpack

from ..layers import (
    Block,
    PositionEmbedding,
    Stage,
    convolve,
    crop,
    depthwise_conv,
    join_heads,
    key_mask,
    known_equal,
    merge,
    pad_to_windows,
    partition,
    split_qkv,
)
from ..layers.attention import attention
from .base import BackboneArgs, BaseBackbone
from .gg_transformer import NO_WEIGHTS, PatchEmbed

OUT_TYPES = ('featmap', 'cls_token')


class GGTokenAttention(nn.Module):
    """Glance-and-gaze attention on a sequence of patch tokens, perhaps behind a class token.

    Args:
        embed_dims: Channels C.
        num_heads: Attention heads.
        partition_size: Side M of a partition in tokens.
        gaze_kernel: Side of the gaze convolution.
        attn_drop_rate: Dropout of attention weights.
        proj_drop_rate: Dropout after the output projection.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        partition_size: int,
        gaze_kernel: int,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = (partition_size, partition_size)
        self.attn_drop_rate = attn_drop_rate
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.v_conv = depthwise_conv(embed_dims, gaze_kernel)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop_rate)

    def forward(self, x: Tensor, size: Tuple[int, int]) -> Tensor:
        """Attend.

        Args:
            x: Tokens (B, T + H * W, C), T = 1 with a class token, else 0.
            size: ``(H, W)`` of the patch tokens, which come last, row by row.

        Returns:
            Tokens of the same shape.
        """
        height, width = size
        extra = x.shape[1] - height * width
        qkv = self.qkv(x)
        shared, patches = qkv.split([extra, height * width], 1)
        glanced = self._glance(patches, shared, height, width)
        values = patches.chunk(3, -1)[2].reshape(x.shape[0], height, width, -1)
        gazed = convolve(self.v_conv, values)
        out = (glanced + gazed).flatten(1, 2)
        if extra:
            q, k, v = split_qkv(qkv, self.num_heads)
            out = torch.cat([join_heads(self._attend(q[:, :, :extra], k, v)), out], 1)
        return self.proj_drop(self.proj(out))

    def _glance(self, patches: Tensor, extra: Tensor, height: int, width: int) -> Tensor:
        """Attend inside partitions: (B, H * W, 3C), (B, T, 3C) -> map (B, H, W, C)."""
        b = patches.shape[0]
        maps = pad_to_windows(patches.reshape(b, height, width, -1), self.window_size)
        hp, wp = maps.shape[1:3]
        windows = partition(maps, self.window_size, dilated=True)  # (B, nW, N, 3C)
        num, n = windows.shape[1:3]
        q, k, v = split_qkv(windows.flatten(0, 1), self.num_heads)
        if extra.shape[1]:
            shared = extra.unsqueeze(1).expand(-1, num, -1, -1).flatten(0, 1)
            _, k_extra, v_extra = split_qkv(shared, self.num_heads)
            k, v = torch.cat([k, k_extra], 2), torch.cat([v, v_extra], 2)
        mask = None
        if not known_equal((hp, wp), (height, width)):
            size = self.window_size
            mask = key_mask(q, height, width, size, dilated=True, extra=extra.shape[1])
        out = join_heads(self._attend(q, k, v, mask)).view(b, num, n, -1)
        return crop(merge(out, self.window_size, hp, wp, dilated=True), height, width)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        return attention(q, k, v, mask, dropout=self.attn_drop_rate if self.training else 0.0)


@MODELS.register_module()
class GGDeiT(BaseBackbone):
    """DeiT with glance-and-gaze attention.

    Takes images of any size; gives one map of stride 16, or the class token.

    Args:
        arch: 'tiny' or 'small', or a dict with the keys ``embed_dims``, ``depths`` (one
            number, in a tuple), ``num_heads``, ``mlp_ratio``, ``drop_path_rate``.
        img_size: Side of the image for which position embeddings are created; others are
            resized (bicubic).
        partition_size: Side M of a partition in tokens; the dilation is ceil(side / M).
        gaze_kernel: Side of the gaze convolution.
        with_cls_token: Have a class token.
        out_type: 'featmap': map of the patch tokens; 'cls_token': the class token (B, C).
        attn_drop_rate: Dropout of attention weights.
        common: ``in_channels``, ``drop_rate``, ``drop_path_rate``, ``frozen_stages`` (0 the stem, 1
            everything), ``with_cp``, ``compile``, ``norm_cfg``, ``init_cfg`` (no weights were ever
            released), see :class:`~gcvit_mm.backbones.base.BaseBackbone`.

    Raises:
        TypeError: For unknown arguments.
        ValueError: For values out of range.
    """

    arch_zoo = dict(
        tiny=dict(embed_dims=192, depths=(12,), num_heads=3, mlp_ratio=4.0, drop_path_rate=0.1),
        small=dict(embed_dims=384, depths=(12,), num_heads=6, mlp_ratio=4.0, drop_path_rate=0.1),
    )
    num_stages = 1
    default_out_indices = (0,)
    default_norm = dict(type='LN', eps=1e-6)
    not_taken = ('out_indices',)
    weights_note = NO_WEIGHTS

    def __init__(
        self,
        arch: Union[str, dict] = 'tiny',
        img_size: int = 224,
        partition_size: int = 7,
        gaze_kernel: int = 3,
        with_cls_token: bool = True,
        out_type: str = 'featmap',
        attn_drop_rate: float = 0.0,
        **common: Unpack[BackboneArgs],
    ) -> None:
        super().__init__(arch, **common)
        if out_type not in OUT_TYPES or (out_type == 'cls_token' and not with_cls_token):
            raise ValueError(
                f'out_type must be one of {OUT_TYPES}, the second only with a class token, got '
                f"'{out_type}' and with_cls_token={with_cls_token}"
            )
        settings = self.arch_settings
        embed_dims = settings['embed_dims']
        self.out_type = out_type
        self.patch_embed = PatchEmbed(self.in_channels, embed_dims, 16, None)
        self.pos_embed = PositionEmbedding(embed_dims, -(-img_size // 16), int(with_cls_token))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims)) if with_cls_token else None
        if self.cls_token is not None:
            trunc_normal_(self.cls_token, std=0.02)
        self.pos_drop = nn.Dropout(self.drop_rate)
        blocks = [
            Block(
                GGTokenAttention(
                    embed_dims,
                    settings['num_heads'],
                    partition_size,
                    gaze_kernel,
                    attn_drop_rate=attn_drop_rate,
                    proj_drop_rate=self.drop_rate,
                ),
                embed_dims,
                settings['mlp_ratio'],
                self.norm_cfg,
                drop_path=drop_path,
                drop_rate=self.drop_rate,
            )
            for drop_path in self.drop_paths()[0]
        ]
        self.stages = nn.ModuleList([Stage(blocks, with_cp=self.recomputed[0])])
        self.finish([embed_dims])

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Compute the map or the class token.

        Args:
            x: Images (B, in_channels, H, W).

        Returns:
            One map (B, C, ceil(H / 16), ceil(W / 16)), or one tensor (B, C).

        Raises:
            ValueError: If ``x`` has another number of dimensions or channels.
        """
        self.check_image(x)
        x = self.patch_embed(x)
        size = (x.shape[1], x.shape[2])
        x = x.flatten(1, 2)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)
        x = self.pos_drop(x + self.pos_embed(size))
        (stage,) = self.stages
        x = self.norm0(stage(x, size)[0])
        if self.out_type == 'cls_token':
            return (x[:, 0],)
        patches = x[:, x.shape[1] - size[0] * size[1] :]
        return (patches.transpose(1, 2).reshape(x.shape[0], -1, *size),)
