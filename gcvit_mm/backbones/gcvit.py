"""GC ViT, written from the paper.

Global Context Vision Transformers, Hatamizadeh et al., ICML 2023 (arXiv 2206.09959).

Blocks alternate between attention inside local windows and attention in which all windows of
an image share one *global query*, made from the whole map of the stage by convolutions. The
released models differ from the paper's text in places (strided convolutions instead of max
pooling between stages, output projection, relative position bias in all blocks); this follows
the released models, so that their weights can be used.
"""

from functools import partial
from typing import Any, Dict, Optional, Sequence, Tuple, Union

from mmengine.registry import MODELS
from torch import Tensor, nn
from typing_extensions import Unpack

from ..layers import (
    Block,
    MBConv,
    Stage,
    WindowAttention,
    build_channels_last_norm,
    halving_conv,
    halving_max_pool,
    known_equal,
    resize_cubic,
    to_2tuple,
)
from .base import BackboneArgs, BaseBackbone

Size = Tuple[int, int]
GLOBAL_QUERIES = ('shared', 'own', 'none')
# Archs of Table 5 that come with another query than the shared one
OTHER_QUERIES = dict(tiny_no_gsa='none', tiny_no_share='own')
# MB blocks in the query generator of each stage (v1 of the paper, section 2.2)
QUERY_BLOCKS = (3, 2, 1, 1)


class Downsample(nn.Module):
    """Halve a map: norm, MB block, strided convolution, norm.

    Args:
        in_dims: Input channels.
        out_dims: Output channels.
        norm_cfg: Config of both norms.
        overlap: 3x3 convolution with stride 2; ``False`` takes 2x2 patches side by side.
    """

    def __init__(self, in_dims: int, out_dims: int, norm_cfg: dict, overlap: bool = True) -> None:
        super().__init__()
        self.norm1 = build_channels_last_norm(norm_cfg, in_dims)
        self.mbconv = MBConv(in_dims)
        self.reduction = halving_conv(in_dims, out_dims, overlap, bias=False)
        self.norm2 = build_channels_last_norm(norm_cfg, out_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), C')."""
        x = self.mbconv(self.norm1(x).permute(0, 3, 1, 2))
        return self.norm2(self.reduction(x).permute(0, 2, 3, 1))


class PatchEmbed(nn.Module):
    """Image to tokens at stride 4: a strided convolution and a :class:`Downsample`."""

    def __init__(
        self, in_channels: int, embed_dims: int, norm_cfg: dict, overlap: bool, drop_rate: float
    ) -> None:
        super().__init__()
        self.proj = halving_conv(in_channels, embed_dims, overlap, bias=True, of_image=True)
        self.down = Downsample(embed_dims, embed_dims, norm_cfg, overlap)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, C, H, W) -> map (B, ceil(H / 4), ceil(W / 4), embed_dims)."""
        return self.drop(self.down(self.proj(x).permute(0, 2, 3, 1)))


class GlobalQuery(nn.Module):
    """One query for all windows of an image, from the whole map of a stage.

    MB blocks, each of the first ``num_pools`` followed by a 3x3 max pooling of stride 2; then
    a bicubic resize to the window where the size differs.

    Args:
        embed_dims: Channels C.
        num_heads: Heads of the attention that uses the query.
        window_size: Window ``(height, width)`` in tokens.
        num_blocks: Number of MB blocks.
        num_pools: Number of poolings, at most ``num_blocks``.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: Size,
        num_blocks: int,
        num_pools: int,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.num_pools = num_pools
        self.blocks = nn.ModuleList(MBConv(embed_dims) for _ in range(num_blocks))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) -> query (B, heads, N, C / heads), N the tokens of a window."""
        x = x.permute(0, 3, 1, 2)
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i < self.num_pools:
                x = halving_max_pool(x)
        if not known_equal(x.shape[2:], self.window_size):
            x = resize_cubic(x, self.window_size)
        # head h owns channels h * d ... (h + 1) * d - 1
        return x.reshape(x.shape[0], self.num_heads, -1, x[0, 0].numel()).transpose(2, 3)


class GCViTBlock(Block):
    """Block whose windows attend with queries of their own, or with the global one.

    Args:
        embed_dims: Channels C.
        num_heads: Attention heads.
        window_size: Window ``(height, width)`` in tokens.
        use_global_query: Take the query from outside instead of from the windows.
        query_generator: Own generator of the global query, run on the input of this block.
        attn_kwargs: More arguments of :class:`gcvit_mm.layers.WindowAttention`.
        block_kwargs: More arguments of :class:`gcvit_mm.layers.Block`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: Size,
        use_global_query: bool,
        query_generator: Optional[GlobalQuery],
        attn_kwargs: dict,
        **block_kwargs: Any,
    ) -> None:
        attn = WindowAttention(
            embed_dims, num_heads, window_size, own_query=not use_global_query, **attn_kwargs
        )
        super().__init__(attn, embed_dims, **block_kwargs)
        self.use_global_query = use_global_query
        self.query_generator = query_generator

    def forward(self, x: Tensor, query: Optional[Tensor] = None) -> Tensor:
        """Map (B, H, W, C) and a query (B, heads, N, d) for global blocks -> (B, H, W, C)."""
        if not self.use_global_query:
            return super().forward(x)
        return super().forward(
            x, query if self.query_generator is None else self.query_generator(x)
        )


class GCViTStage(Stage):
    """Blocks of one resolution (even ones local, odd ones global), their query, downsampling.

    Args:
        blocks: The blocks.
        query_generator: Makes the query that the global blocks share; ``None`` for none.
        kwargs: More arguments of :class:`gcvit_mm.layers.Stage`.
    """

    def __init__(
        self, blocks: Sequence[GCViTBlock], query_generator: Optional[GlobalQuery], **kwargs: Any
    ) -> None:
        super().__init__(blocks, **kwargs)
        self.query_generator = query_generator
        # behind it, as in the optimizer states of earlier runs
        for name in ('blocks', 'downsample'):
            setattr(self, name, self._modules.pop(name, None))

    def forward(self, x: Tensor, *args: Any) -> Tuple[Tensor, Tensor]:
        """Map (B, H, W, C) -> the map after the blocks, and the input of the next stage."""
        query = None if self.query_generator is None else self.query_generator(x)
        return super().forward(x, query)


def _archs() -> dict:
    usual = dict(window_size=(7, 7, 14, 7), mlp_ratio=2.0, layer_scale=1e-5)
    tiny = dict(usual, embed_dims=64, num_heads=(2, 4, 8, 16), mlp_ratio=3.0, layer_scale=None)
    small = dict(usual, embed_dims=96, num_heads=(3, 6, 12, 24))
    base = dict(usual, embed_dims=128, num_heads=(4, 8, 16, 32))
    large = dict(usual, embed_dims=192, num_heads=(6, 12, 24, 48), depths=(3, 4, 19, 5))
    return dict(
        xxtiny=dict(tiny, depths=(2, 2, 6, 2), drop_path_rate=0.2),
        xtiny=dict(tiny, depths=(3, 4, 6, 5), drop_path_rate=0.2),
        tiny=dict(tiny, depths=(3, 4, 19, 5), drop_path_rate=0.2),
        tiny2=dict(tiny, depths=(3, 4, 29, 5), drop_path_rate=0.25),
        tiny_no_gsa=dict(tiny, depths=(3, 4, 18, 5), drop_path_rate=0.2),
        tiny_no_share=dict(tiny, depths=(3, 4, 17, 5), drop_path_rate=0.2),
        small=dict(small, depths=(3, 4, 19, 5), drop_path_rate=0.3),
        small2=dict(small, depths=(3, 4, 23, 5), drop_path_rate=0.35, mlp_ratio=3.0),
        base=dict(base, depths=(3, 4, 19, 5), drop_path_rate=0.5),
        large=dict(large, drop_path_rate=0.5),
        large_384=dict(large, drop_path_rate=0.1, window_size=(12, 12, 24, 12)),
        large_512=dict(large, drop_path_rate=0.1, window_size=(16, 16, 32, 16)),
    )


@MODELS.register_module()
class GCViT(BaseBackbone):
    """Global Context Vision Transformer.

    Takes images of any size; maps have strides 4, 8, 16, 32 and sides ceil(side / stride).

    Args:
        arch: One of ``arch_zoo`` (spec: arXiv 2206.09959, Table S.2, and the released
            models), or a dict with the same keys: ``embed_dims`` (of stage 0, doubled from
            stage to stage), ``depths``, ``num_heads``, ``mlp_ratio``, ``layer_scale``,
            ``window_size``, ``drop_path_rate``. 'tiny_no_gsa' and 'tiny_no_share' are the rows
            'w/o G-SA' and 'w/o global share' of v1's Table 5: as large as 'tiny', with one and two
            blocks fewer in stage 2 (how they were tailored, the paper does not say).
        window_size: One int, or one entry a stage, each an int or ``(height, width)``; in
            tokens. Default: that of the arch.
        query_pools: Max poolings in the query generator of each stage. (3, 2, 0, 0) is what
            the classification models were trained with; (3, 2, 1, 0) brings all four query
            maps to stride 32, as the released detection code does with windows of 24.
        global_query: 'shared': one query a stage for all its global blocks. 'own': a
            generator for every global block, run on its input. 'none': all blocks local.
            Default: 'shared'; of 'tiny_no_gsa' 'none', of 'tiny_no_share' 'own'. With 'tiny' the
            last two are the rows 'v2' of Table S.1.
        rel_pos_bias: Learned relative position bias (``False``: row 'w/o pos.').
        overlap_patches: 3x3 convolutions in the stem instead of 2x2 patches side by side
            (``False``: row 'w/o over.').
        mask_padding: Hide padded tokens from real ones. The published models do not.
        attn_drop_rate: Dropout of attention weights.
        common: ``in_channels``, ``out_indices``, ``drop_rate``, ``drop_path_rate``,
            ``frozen_stages``, ``with_cp``, ``compile``, ``norm_cfg``, ``init_cfg`` ('Pretrained'
            takes the authors', timm's and our layout), see
            :class:`~gcvit_mm.backbones.base.BaseBackbone`.

    Raises:
        TypeError: For unknown arguments.
        ValueError: For values out of range.

    Example:
        >>> import torch
        >>> from gcvit_mm import GCViT
        >>> model = GCViT('xxtiny').eval()
        >>> [tuple(out.shape) for out in model(torch.zeros(1, 3, 65, 97))]
        [(1, 64, 17, 25), (1, 128, 9, 13), (1, 256, 5, 7), (1, 512, 3, 4)]
    """

    arch_zoo = _archs()

    def __init__(
        self,
        arch: Union[str, dict] = 'tiny',
        window_size: Union[int, Sequence[Union[int, Size]], None] = None,
        query_pools: Sequence[int] = (3, 2, 0, 0),
        global_query: Optional[str] = None,
        rel_pos_bias: bool = True,
        overlap_patches: bool = True,
        mask_padding: bool = False,
        attn_drop_rate: float = 0.0,
        **common: Unpack[BackboneArgs],
    ) -> None:
        super().__init__(arch, **common)
        settings, norm_cfg = self.arch_settings, self.norm_cfg
        if global_query is None:
            global_query = OTHER_QUERIES.get(self.arch, 'shared')
        if global_query not in GLOBAL_QUERIES:
            raise ValueError(f'global_query must be one of {GLOBAL_QUERIES}, got {global_query!r}')
        pools = self.per_stage(query_pools, 'query_pools')
        for stage, (pool, most) in enumerate(zip(pools, QUERY_BLOCKS)):
            if not 0 <= pool <= most:
                raise ValueError(f'query_pools[{stage}] must be within 0..{most}, got {pool}')
        windows = self.per_stage(
            settings['window_size'] if window_size is None else window_size, 'window_size'
        )
        num_heads = self.per_stage(settings['num_heads'], 'num_heads')
        embed_dims = [settings['embed_dims'] * 2**i for i in range(self.num_stages)]
        attn_kwargs = dict(
            rel_pos_bias=rel_pos_bias,
            mask_padding=mask_padding,
            attn_drop_rate=attn_drop_rate,
            proj_drop_rate=self.drop_rate,
        )

        self.patch_embed = PatchEmbed(
            self.in_channels, embed_dims[0], norm_cfg, overlap_patches, self.drop_rate
        )
        self.stages = nn.ModuleList()
        for i, drop_paths in enumerate(self.drop_paths()[: self.num_built_stages]):
            shared: Dict[str, Any] = dict(
                embed_dims=embed_dims[i],
                num_heads=num_heads[i],
                window_size=to_2tuple(windows[i], f'window_size[{i}]'),
            )
            make_query = partial(
                GlobalQuery, num_blocks=QUERY_BLOCKS[i], num_pools=pools[i], **shared
            )
            last = i == self.num_built_stages - 1
            downsample = None if last else Downsample(embed_dims[i], embed_dims[i + 1], norm_cfg)
            query = make_query() if global_query == 'shared' and len(drop_paths) > 1 else None
            blocks = []
            for j, drop_path in enumerate(drop_paths):
                is_global = global_query != 'none' and j % 2 == 1
                own_query = make_query() if is_global and global_query == 'own' else None
                blocks.append(
                    GCViTBlock(
                        use_global_query=is_global,
                        query_generator=own_query,
                        attn_kwargs=attn_kwargs,
                        mlp_ratio=settings['mlp_ratio'],
                        layer_scale=settings['layer_scale'],
                        drop_path=drop_path,
                        drop_rate=self.drop_rate,
                        norm_cfg=norm_cfg,
                        **shared,
                    )
                )
            self.stages.append(
                GCViTStage(blocks, query, downsample=downsample, with_cp=self.recomputed[i])
            )
        self.finish(embed_dims)
