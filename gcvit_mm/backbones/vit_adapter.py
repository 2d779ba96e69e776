"""ViT-Adapter, written from its paper (arXiv 2205.08534) and GPViT's use of it.

Makes a pyramid out of a plain transformer that keeps one map of stride 8: a convolutional branch
gives maps of strides 8, 16 and 32, whose tokens are injected into the transformer and extracted
from it in turn. It knows nothing of the transformer but its channels and a function that runs a
part of its layers.
"""

from functools import partial
from typing import Any, Callable, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from ..layers import (
    DeformableAttention,
    DropPath,
    ImageConv,
    build_channels_last_norm,
    depthwise_conv,
    run_block,
)
from ..layers.deform_attn import Sizes, to_map

STRIDES = (4, 8, 16, 32)


def grid_centers(sizes: Sizes, device: torch.device) -> Tensor:
    """Centres of the cells of some maps, as (x, y) in 0..1: (sum of H * W, 2), row by row."""
    centers = []
    for h, w in sizes:
        ys = (torch.arange(h, dtype=torch.float32, device=device) + 0.5) / h
        xs = (torch.arange(w, dtype=torch.float32, device=device) + 0.5) / w
        centers.append(torch.stack([xs.expand(h, w), ys[:, None].expand(h, w)], -1).flatten(0, 1))
    return torch.cat(centers)


class SpatialPrior(nn.Module):
    """Convolutional branch: maps of strides 4, 8, 16 and 32 from the image.

    Args:
        in_channels: Channels of the image.
        embed_dims: Channels C of all maps.
        hidden: Channels of the first convolutions.
        norm_cfg: Config of the norms.
        with_stride4: Also return the map of stride 4.
    """

    def __init__(
        self, in_channels: int, embed_dims: int, hidden: int, norm_cfg: dict, with_stride4: bool
    ) -> None:
        super().__init__()

        def conv(in_dims: int, out_dims: int, stride: int, cls: Any = nn.Conv2d) -> list:
            return [
                cls(in_dims, out_dims, 3, stride, 1, bias=False),
                build_norm_layer(norm_cfg, out_dims)[1],
                nn.ReLU(inplace=True),
            ]

        self.stem = nn.Sequential(
            *conv(in_channels, hidden, 2, ImageConv),
            *conv(hidden, hidden, 1),
            *conv(hidden, hidden, 1),
            nn.MaxPool2d(3, 2, 1),
        )
        self.conv2 = nn.Sequential(*conv(hidden, 2 * hidden, 2))
        self.conv3 = nn.Sequential(*conv(2 * hidden, 4 * hidden, 2))
        self.conv4 = nn.Sequential(*conv(4 * hidden, 4 * hidden, 2))
        self.fc1 = nn.Conv2d(hidden, embed_dims, 1) if with_stride4 else None
        self.fc2 = nn.Conv2d(2 * hidden, embed_dims, 1)
        self.fc3 = nn.Conv2d(4 * hidden, embed_dims, 1)
        self.fc4 = nn.Conv2d(4 * hidden, embed_dims, 1)

    def forward(self, image: Tensor) -> Tuple[Optional[Tensor], List[Tensor]]:
        """Image (B, in_channels, H, W) -> map of stride 4, maps of strides 8, 16, 32."""
        x1 = self.stem(image)
        x2 = self.conv2(x1)
        x3 = self.conv3(x2)
        c1 = None if self.fc1 is None else self.fc1(x1)
        return c1, [self.fc2(x2), self.fc3(x3), self.fc4(self.conv4(x3))]


class ConvFFN(nn.Module):
    """Linear, depthwise convolution on each map by itself, GELU, linear.

    Args:
        embed_dims: Channels C.
        hidden_dims: Hidden channels.
    """

    def __init__(self, embed_dims: int, hidden_dims: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, hidden_dims)
        self.dwconv = depthwise_conv(hidden_dims, 3)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dims, embed_dims)

    def forward(self, x: Tensor, sizes: Sizes) -> Tensor:
        """Tokens (B, N, C) of maps of these sizes -> (B, N, C)."""
        x = self.fc1(x).transpose(1, 2)
        maps = zip(x.split([h * w for h, w in sizes], 2), sizes)
        x = torch.cat([self.dwconv(to_map(part, size)).flatten(2) for part, size in maps], 2)
        return self.fc2(self.act(x.transpose(1, 2)))


class Injector(nn.Module):
    """The transformer's tokens look at those of the pyramid.

    Args:
        embed_dims: Channels C.
        num_heads: Heads of the deformable attention.
        num_points: Points a head and level.
        norm_cfg: Config of both norms.
        impl: See :class:`gcvit_mm.layers.deform_attn.DeformableAttention`.
    """

    def __init__(
        self, embed_dims: int, num_heads: int, num_points: int, norm_cfg: dict, impl: str
    ) -> None:
        super().__init__()
        self.query_norm = build_channels_last_norm(norm_cfg, embed_dims)
        self.feat_norm = build_channels_last_norm(norm_cfg, embed_dims)
        self.attn = DeformableAttention(embed_dims, num_heads, 3, num_points, impl)
        self.gamma = nn.Parameter(torch.zeros(embed_dims))

    def forward(self, x: Tensor, c: Tensor, sizes: Sizes) -> Tensor:
        """Tokens (B, h * w, C), pyramid (B, N, C) of these sizes -> tokens (B, h * w, C)."""
        centers = grid_centers(sizes[:1], x.device)
        attended = self.attn(self.query_norm(x), centers, self.feat_norm(c), sizes)
        return x + self.gamma * attended


class Extractor(nn.Module):
    """The pyramid's tokens look at those of the transformer.

    Args:
        embed_dims: Channels C.
        num_heads: Heads of the deformable attention.
        num_points: Points a head.
        mlp_ratio: Hidden channels of the feed-forward part over C.
        norm_cfg: Config of the norms.
        drop_path: Probability of dropping the feed-forward part.
        impl: See :class:`gcvit_mm.layers.deform_attn.DeformableAttention`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        num_points: int,
        mlp_ratio: float,
        norm_cfg: dict,
        drop_path: float,
        impl: str,
    ) -> None:
        super().__init__()
        self.query_norm = build_channels_last_norm(norm_cfg, embed_dims)
        self.feat_norm = build_channels_last_norm(norm_cfg, embed_dims)
        self.attn = DeformableAttention(embed_dims, num_heads, 1, num_points, impl)
        self.ffn_norm = build_channels_last_norm(norm_cfg, embed_dims)
        self.ffn = ConvFFN(embed_dims, int(embed_dims * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, c: Tensor, x: Tensor, sizes: Sizes) -> Tensor:
        """Pyramid (B, N, C) of these sizes, tokens (B, h * w, C) -> pyramid (B, N, C)."""
        centers = grid_centers(sizes, c.device)
        c = c + self.attn(self.query_norm(c), centers, self.feat_norm(x), sizes[:1])
        return self.drop_path.add(c, lambda c: self.ffn(self.ffn_norm(c), sizes))


class Interaction(nn.Module):
    """One exchange: injector, the layers of the transformer that belong to it, extractors.

    Args:
        injector: The injector.
        extractor: The extractor.
        extra_extractors: Extractors that follow it.
        with_cp: Recompute injector and extractors in the backward pass.
    """

    def __init__(
        self,
        injector: Injector,
        extractor: Extractor,
        extra_extractors: Sequence[Extractor] = (),
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        self.injector = injector
        self.extractor = extractor
        self.extra_extractors = nn.ModuleList(extra_extractors)
        self.with_cp = with_cp

    def forward(
        self, x: Tensor, c: Tensor, sizes: Sizes, run_layers: Callable[[Tensor], Tensor]
    ) -> Tuple[Tensor, Tensor]:
        """Tokens (B, h * w, C), pyramid (B, N, C) of these sizes -> both, changed."""
        x = run_block(self.injector, self.with_cp, x, c, sizes)
        x = run_layers(x.view(x.shape[0], *sizes[0], x.shape[2])).flatten(1, 2)
        for extractor in (self.extractor, *self.extra_extractors):
            c = run_block(extractor, self.with_cp, c, x, sizes)
        return x, c


class ViTAdapter(nn.Module):
    """ViT-Adapter for a transformer whose tokens have stride 8.

    Args:
        embed_dims: Channels C of the transformer and of all maps.
        num_interactions: Exchanges with the transformer.
        out_strides: Strides of the maps that are returned, some of (4, 8, 16, 32), ascending.
        in_channels: Channels of the image.
        hidden_dims: Channels of the first convolutions.
        num_heads: Heads of the deformable attention.
        num_points: Points a head and level.
        mlp_ratio: Hidden channels of the extractors' feed-forward parts over C.
        drop_path: Probability of dropping those parts.
        norm_cfg: Config of the norms of tokens.
        conv_norm_cfg: Config of the norms of convolutions and of the maps that leave.
        deform_impl: See :class:`gcvit_mm.layers.deform_attn.DeformableAttention`.
        with_cp: For every exchange, whether its injector and extractors are recomputed in the
            backward pass.

    Raises:
        ValueError: If ``out_strides`` are not as said, or ``deform_impl`` is unknown.
    """

    def __init__(
        self,
        embed_dims: int,
        num_interactions: int,
        out_strides: Sequence[int],
        in_channels: int,
        hidden_dims: int,
        num_heads: int,
        num_points: int,
        mlp_ratio: float,
        drop_path: float,
        norm_cfg: dict,
        conv_norm_cfg: dict,
        deform_impl: str,
        with_cp: Sequence[bool],
    ) -> None:
        super().__init__()
        strides = [stride for stride in STRIDES if stride in out_strides]
        if not strides or strides != list(out_strides):
            raise ValueError(
                f'out_strides must be some of {STRIDES}, ascending, got {tuple(out_strides)}'
            )
        self.out_strides = tuple(strides)
        with_stride4 = 4 in strides
        self.level_embed = nn.Parameter(torch.empty(3, embed_dims))
        self.spm = SpatialPrior(in_channels, embed_dims, hidden_dims, conv_norm_cfg, with_stride4)
        shared: dict = dict(
            embed_dims=embed_dims,
            num_heads=num_heads,
            num_points=num_points,
            norm_cfg=norm_cfg,
            impl=deform_impl,
        )

        def extractor() -> Extractor:
            return Extractor(mlp_ratio=mlp_ratio, drop_path=drop_path, **shared)

        extra = [extractor(), extractor()]
        self.interactions = nn.ModuleList(
            Interaction(
                Injector(**shared),
                extractor(),
                extra if k == num_interactions - 1 else (),
                with_cp[k],
            )
            for k in range(num_interactions)
        )
        self.up = nn.ConvTranspose2d(embed_dims, embed_dims, 2, 2) if with_stride4 else None
        for stride in strides:
            norm = build_norm_layer(conv_norm_cfg, embed_dims)[1]
            self.add_module(f'norm_s{stride}', norm)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise all weights."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                kernel = module.weight[0, 0].numel()
                fan_out = kernel * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.reset_parameters()
        nn.init.normal_(self.level_embed)

    def forward(
        self, image: Tensor, x: Tensor, run_layers: Callable[[int, Tensor], Tensor]
    ) -> Tuple[Tensor, ...]:
        """Run the transformer with the adapter beside it.

        Args:
            image: Images (B, in_channels, H, W), H and W multiples of 32.
            x: Map (B, H / 8, W / 8, C) that enters the transformer's layers.
            run_layers: Takes the number of an exchange and a map (B, H / 8, W / 8, C); runs the
                layers that belong to the exchange.

        Returns:
            For every stride s of ``out_strides`` a map (B, C, H / s, W / s).
        """
        c1, levels = self.spm(image)
        sizes = [(level.shape[2], level.shape[3]) for level in levels]
        tokens = [m.flatten(2).transpose(1, 2) + e for m, e in zip(levels, self.level_embed)]
        c = torch.cat(tokens, 1)
        x = x.flatten(1, 2)
        for k, interaction in enumerate(self.interactions):
            x, c = interaction(x, c, sizes, partial(run_layers, k))
        parts = c.transpose(1, 2).split([h * w for h, w in sizes], 2)
        maps = {s: to_map(part, size) for s, part, size in zip((8, 16, 32), parts, sizes)}
        if self.up is not None:
            maps[4] = self.up(maps[8]) + c1
        last = to_map(x.transpose(1, 2), sizes[0])
        return tuple(self._leave(maps[stride], last, stride) for stride in self.out_strides)

    def _leave(self, x: Tensor, last: Tensor, stride: int) -> Tensor:
        if last.shape[2:] != x.shape[2:]:
            last = F.interpolate(last, x.shape[2:], mode='bilinear', align_corners=False)
        return getattr(self, f'norm_s{stride}')(x + last)
