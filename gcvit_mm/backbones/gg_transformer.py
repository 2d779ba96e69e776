"""GG-Transformer, written from the paper.

Glance-and-Gaze Vision Transformer, Yu et al., NeurIPS 2021 (arXiv 2106.02277).

The skeleton is Swin's. Every block *glances*: it attends inside partitions of 7x7 tokens that
lie equidistant over the whole map; and it *gazes*: a depthwise convolution over the values adds
what lies between those tokens. The authors released neither code nor weights; what the paper
leaves open follows Swin.
"""

from typing import List, Optional, Sequence, Union

from mmengine.registry import MODELS
from torch import Tensor, nn
from typing_extensions import Unpack

from ..layers import (
    Block,
    GlobalAttention,
    ImageConv,
    ShiftedWindowAttention,
    Stage,
    WindowAttention,
    build_channels_last_norm,
    convolve,
    depthwise_conv,
    pad_image,
    pad_to_windows,
)
from .base import BackboneArgs, BaseBackbone

GAZES = ('conv', 'attn', 'none', 'only', 'swin', 'msa')
NO_WEIGHTS = (
    'no weights of GG-Transformer were ever released: train it from scratch, or start from a '
    'checkpoint of this package'
)


class PatchEmbed(nn.Module):
    """Square patches side by side to tokens; an image that does not divide is zero-padded.

    Args:
        in_channels: Channels of the image.
        embed_dims: Channels of the tokens.
        patch_size: Side of a patch, in pixels.
        norm_cfg: Config of the norm behind it; ``None`` for no norm.
    """

    def __init__(
        self, in_channels: int, embed_dims: int, patch_size: int, norm_cfg: Optional[dict]
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = ImageConv(in_channels, embed_dims, patch_size, patch_size)
        self.norm = build_channels_last_norm(norm_cfg, embed_dims) if norm_cfg else None

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, C, H, W) -> map (B, ceil(H / patch), ceil(W / patch), embed_dims)."""
        x = self.proj(pad_image(x, self.patch_size)).permute(0, 2, 3, 1)
        return x if self.norm is None else self.norm(x)


class PatchMerging(nn.Module):
    """Halve a map: join squares of 2x2 tokens, norm, project; odd sides are zero-padded.

    The joined channels stand in the order of ``torch.nn.Unfold``, as in mmdet's Swin.

    Args:
        embed_dims: Channels C.
        norm_cfg: Config of the norm.
    """

    def __init__(self, embed_dims: int, norm_cfg: dict) -> None:
        super().__init__()
        self.norm = build_channels_last_norm(norm_cfg, 4 * embed_dims)
        self.reduction = nn.Linear(4 * embed_dims, 2 * embed_dims, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 2C)."""
        x = pad_to_windows(x, (2, 2))
        b, height, width, c = x.shape
        x = x.view(b, height // 2, 2, width // 2, 2, c).permute(0, 1, 3, 5, 2, 4)
        return self.reduction(self.norm(x.reshape(b, height // 2, width // 2, 4 * c)))


class Gaze(nn.Module):
    """The gaze branch by itself: values, a depthwise convolution of their map, the projection.

    Args:
        embed_dims: Channels C.
        kernel_size: Side of the convolution.
        drop_rate: Dropout after the projection.
    """

    def __init__(self, embed_dims: int, kernel_size: int, drop_rate: float) -> None:
        super().__init__()
        self.v = nn.Linear(embed_dims, embed_dims)
        self.v_conv = depthwise_conv(embed_dims, kernel_size)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) -> (B, H, W, C)."""
        return self.proj_drop(self.proj(convolve(self.v_conv, self.v(x))))


@MODELS.register_module()
class GGTransformer(BaseBackbone):
    """Glance-and-Gaze Transformer.

    Takes images of any size; maps have strides 4, 8, 16, 32 and sides ceil(side / stride).
    Partitions span the whole map, so the features of an image change when a batch pads it.

    Args:
        arch: 'tiny' or 'small' (depth and width of Swin-T and Swin-S), or a dict with the
            keys ``embed_dims`` (of stage 0, doubled from stage to stage), ``depths``,
            ``num_heads``, ``mlp_ratio``, ``drop_path_rate``.
        partition_size: Side M of a partition in tokens; the dilation is ceil(side / M).
        gaze: 'conv': depthwise convolution of the values. 'attn': no convolution; every
            second block attends in local windows instead (paper, Table 4b). 'none': glance
            only. 'only': no attention. Without glancing: 'swin' (local windows, in every second
            block shifted by half their side; not in the last stage, whose map is one window at
            224) and 'msa' (all tokens, no position bias). One, or one a stage: the row MSA is
            ('swin', 'swin', 'msa', 'msa').
        gaze_kernels: Side of the gaze convolution in each stage; (9, 5, 3, 3) is the paper's
            adaptive choice, (3, 3, 3, 3) and (5, 5, 5, 5) are the fixed ones (Table 4a).
        rel_pos_bias: Learned relative position bias, in units of the dilation. The paper does
            not say; its settings are Swin's, which has it.
        mask_padding: Hide padded tokens from real ones.
        attn_drop_rate: Dropout of attention weights.
        common: ``in_channels``, ``out_indices``, ``drop_rate``, ``drop_path_rate``,
            ``frozen_stages``, ``with_cp``, ``compile``, ``norm_cfg``, ``init_cfg`` ('Pretrained'
            takes checkpoints of this package: no weights were ever released), see
            :class:`~gcvit_mm.backbones.base.BaseBackbone`.

    Raises:
        TypeError: For unknown arguments.
        ValueError: For values out of range.

    Example:
        >>> import torch
        >>> from gcvit_mm import GGTransformer
        >>> model = GGTransformer('tiny').eval()
        >>> [tuple(out.shape) for out in model(torch.zeros(1, 3, 65, 97))]
        [(1, 96, 17, 25), (1, 192, 9, 13), (1, 384, 5, 7), (1, 768, 3, 4)]
    """

    arch_zoo = dict(
        tiny=dict(
            embed_dims=96,
            depths=(2, 2, 6, 2),
            num_heads=(3, 6, 12, 24),
            mlp_ratio=4.0,
            drop_path_rate=0.2,
        ),
        small=dict(
            embed_dims=96,
            depths=(2, 2, 18, 2),
            num_heads=(3, 6, 12, 24),
            mlp_ratio=4.0,
            drop_path_rate=0.3,
        ),
    )
    weights_note = NO_WEIGHTS

    def __init__(
        self,
        arch: Union[str, dict] = 'tiny',
        partition_size: int = 7,
        gaze: Union[str, Sequence[str]] = 'conv',
        gaze_kernels: Sequence[int] = (9, 5, 3, 3),
        rel_pos_bias: bool = True,
        mask_padding: bool = True,
        attn_drop_rate: float = 0.0,
        **common: Unpack[BackboneArgs],
    ) -> None:
        super().__init__(arch, **common)
        gazes = self.per_stage(gaze, 'gaze')
        if not set(gazes) <= set(GAZES):
            raise ValueError(f'gaze must be of {GAZES}, got {gaze!r}')
        kernels = self.per_stage(gaze_kernels, 'gaze_kernels')
        if any(kernel % 2 == 0 for kernel in kernels):
            raise ValueError(f'gaze_kernels must be odd, got {kernels}')
        settings, norm_cfg = self.arch_settings, self.norm_cfg
        num_heads = self.per_stage(settings['num_heads'], 'num_heads')
        embed_dims = [settings['embed_dims'] * 2**i for i in range(self.num_stages)]

        def build_attention(stage: int, second: bool) -> nn.Module:
            kind, dims = gazes[stage], embed_dims[stage]
            if kind == 'only':
                return Gaze(dims, kernels[stage], self.drop_rate)
            if kind == 'msa':
                return GlobalAttention(dims, num_heads[stage])
            sizes = (dims, num_heads[stage], (partition_size, partition_size))
            options: dict = dict(
                rel_pos_bias=rel_pos_bias,
                mask_padding=mask_padding,
                dilated=kind != 'swin' and not (kind == 'attn' and second),
                attn_drop_rate=attn_drop_rate,
                proj_drop_rate=self.drop_rate,
                v_kernel=kernels[stage] if kind == 'conv' else 0,
            )
            if kind == 'swin' and second and stage + 1 < self.num_stages:
                return ShiftedWindowAttention(*sizes, offset=(partition_size + 1) // 2, **options)
            return WindowAttention(*sizes, **options)

        self.patch_embed = PatchEmbed(self.in_channels, embed_dims[0], 4, norm_cfg)
        self.stages = nn.ModuleList()
        for i, drop_paths in enumerate(self.drop_paths()[: self.num_built_stages]):
            blocks: List[Block] = []
            for j, drop_path in enumerate(drop_paths):
                blocks.append(
                    Block(
                        build_attention(i, j % 2 == 1),
                        embed_dims[i],
                        settings['mlp_ratio'],
                        norm_cfg,
                        drop_path=drop_path,
                        drop_rate=self.drop_rate,
                    )
                )
            last = i == self.num_built_stages - 1
            merging = None if last else PatchMerging(embed_dims[i], norm_cfg)
            self.stages.append(Stage(blocks, merging, self.recomputed[i]))
        self.finish(embed_dims)
