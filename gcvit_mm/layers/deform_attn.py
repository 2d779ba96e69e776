"""Multi-scale deformable attention (arXiv 2010.04159), with or without mmcv's compiled op."""

import functools
import importlib
import math
from typing import Sequence, Tuple

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..ops.deform_attn import sample as sample_torch
from .attention import check_heads
from .tracing import is_compiling

DEFORM_IMPLS = ('auto', 'mmcv', 'torch')
Sizes = Sequence[Tuple[int, int]]


@functools.lru_cache(maxsize=None)
def has_mmcv_op() -> bool:
    """Tell whether mmcv's operators were compiled for GPUs; what is not compiled is not faster."""
    try:
        extension = importlib.import_module('mmcv._ext')
    except ImportError:  # also one that was compiled for another torch
        return False
    return extension.get_compiling_cuda_version() != 'not available'


def to_map(x: Tensor, size: Tuple[int, int]) -> Tensor:
    """Tokens (B, C, H * W) -> map (B, C, H, W)."""
    return x.reshape(*x.shape[:2], *size)


def sample_mmcv(value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """mmcv's CUDA op; arguments and result as :func:`gcvit_mm.ops.deform_attn.sample`."""
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    shapes = torch.tensor(sizes, dtype=torch.long, device=value.device)
    starts = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])
    return MultiScaleDeformableAttnFunction.apply(
        value.contiguous(),
        shapes,
        starts,
        locations.contiguous(),
        weights.contiguous(),
        value.shape[0],
    )


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention: every query samples a few learned points of each level.

    Sampling runs in float32 (or float64), also where half precision is around it.

    Args:
        embed_dims: Channels C.
        num_heads: Heads; divides ``embed_dims``.
        num_levels: Maps to sample from.
        num_points: Points a head and level.
        impl: 'mmcv' for its compiled op (CUDA only), 'torch' for plain torch, 'auto' for the
            former where it can run.

    Raises:
        ValueError: If ``impl`` is unknown or ``embed_dims`` is no multiple of ``num_heads``.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        num_levels: int,
        num_points: int = 4,
        impl: str = 'auto',
    ) -> None:
        super().__init__()
        if impl not in DEFORM_IMPLS:
            raise ValueError(f"deform_impl must be one of {DEFORM_IMPLS}, got '{impl}'")
        check_heads(embed_dims, num_heads)
        self.points = (num_heads, num_levels, num_points)
        self.impl = impl
        count = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dims, 2 * count)
        self.attention_weights = nn.Linear(embed_dims, count)
        self.value_proj = nn.Linear(embed_dims, embed_dims)
        self.output_proj = nn.Linear(embed_dims, embed_dims)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start from points on rays, one ray a head, all weighted alike."""
        heads, levels, points = self.points
        angles = torch.arange(heads, dtype=torch.float32) * (2 * math.pi / heads)
        rays = torch.stack([angles.cos(), angles.sin()], -1)
        rays = rays / rays.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, points + 1, dtype=torch.float32)
        bias = rays[:, None, None] * steps[:, None]
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(bias.expand(-1, levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, query: Tensor, reference: Tensor, feat: Tensor, sizes: Sizes) -> Tensor:
        """Attend.

        Args:
            query: Queries (B, Q, C).
            reference: Centres (Q, 2) of the points, as (x, y) in 0..1.
            feat: Tokens (B, N, C) of all levels, level by level, each row by row.
            sizes: ``(H, W)`` of every level.

        Returns:
            Tensor (B, Q, C).

        Raises:
            UserError: If ``impl='mmcv'`` cannot run here.
        """
        heads, levels, points = self.points
        b, queries, _ = query.shape
        value = self.value_proj(feat).view(b, -1, heads, feat.shape[2] // heads)
        offsets = self.sampling_offsets(query).view(b, queries, heads, levels, points, 2)
        weights = self.attention_weights(query).view(b, queries, heads, -1)
        dtype = torch.promote_types(value.dtype, torch.float32)
        weights = weights.to(dtype).softmax(-1).view(b, queries, heads, levels, points)
        # not torch.tensor(): a trace would take the sizes for constants
        sides = [
            torch.scalar_tensor(side, dtype=dtype, device=query.device)
            for h, w in sizes
            for side in (w, h)
        ]
        extent = torch.stack(sides).view(levels, 2)
        centers = reference.to(dtype)[:, None, None, None]
        locations = centers + offsets.to(dtype) / extent[:, None]
        sample = sample_mmcv if self._use_mmcv(value) else sample_torch
        out = sample(value.to(dtype), sizes, locations, weights)  # autocast leaves float32 alone
        return self.output_proj(out.to(value.dtype))

    def _use_mmcv(self, value: Tensor) -> bool:
        if self.impl == 'torch':
            return False
        can = value.is_cuda and has_mmcv_op()
        if self.impl == 'mmcv' and not can:
            raise UserError(
                "deform_impl='mmcv' needs a GPU, and mmcv with operators compiled for it: build "
                "mmcv so, or set deform_impl='auto'"
            )
        return can and not is_compiling()
