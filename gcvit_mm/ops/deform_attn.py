"""Multi-scale deformable attention (arXiv 2010.04159) in plain torch."""

from typing import Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .boxes import widened


def by_grid_sample(
    value: Tensor, sizes: Sequence[Tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Sample level by level; arguments and result as :func:`sample`."""
    b, _, heads, d = value.shape
    queries = locations.shape[1]
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # (B * heads, Q, levels, points, 2)
    maps = value.permute(0, 2, 3, 1).flatten(0, 1)  # (B * heads, d, N)
    parts = maps.split([h * w for h, w in sizes], 2)
    samples = [
        F.grid_sample(part.reshape(*part.shape[:2], *size), grids[:, :, level], align_corners=False)
        for level, (part, size) in enumerate(zip(parts, sizes))
    ]
    weights = weights.transpose(1, 2).flatten(3).flatten(0, 1)[:, None]
    summed = (torch.cat(samples, -1) * weights).sum(-1)  # (B * heads, d, Q)
    return summed.view(b, heads * d, queries).transpose(1, 2)


def by_rows(
    value: Tensor, sizes: Sequence[Tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Sum rows of a table, a row a pixel and head; arguments and result as :func:`sample`."""
    b, n, heads, d = value.shape
    queries, levels = locations.shape[1], locations.shape[3]
    size = locations.new_tensor(sizes).flip(1)[:, None]  # (levels, 1, 2) as (x, y)
    counts = [h * w for h, w in sizes]
    starts = torch.tensor([sum(counts[:i]) for i in range(levels)], device=value.device)[:, None]
    place = locations * size - 0.5
    low = place.detach().floor()
    fraction = place - low
    low, size = low.long(), size.long()
    head = torch.arange(heads, device=value.device)[:, None, None]
    base = torch.arange(b, device=value.device).view(-1, 1, 1, 1, 1) * n + starts
    rows, factors = [], []
    for dy in (0, 1):
        y = low[..., 1] + dy
        of_y = fraction[..., 1] if dy else 1 - fraction[..., 1]
        for dx in (0, 1):
            x = low[..., 0] + dx
            of_x = fraction[..., 0] if dx else 1 - fraction[..., 0]
            inside = (x >= 0) & (x < size[..., 0]) & (y >= 0) & (y < size[..., 1])
            row = (base + y * size[..., 0] + x) * heads + head
            rows.append(torch.where(inside, row, torch.zeros_like(row)))
            factors.append(of_x * of_y * weights * inside)
    index = torch.stack(rows, -1).flatten(3).flatten(0, 2)
    factor = torch.stack(factors, -1).flatten(3).flatten(0, 2)
    table = value.reshape(-1, d)
    summed = F.embedding_bag(index, table, mode='sum', per_sample_weights=factor)
    return summed.view(b, queries, heads * d)


def multi_scale_deformable_attn_pytorch(
    value: Tensor,
    value_spatial_shapes: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """What mmcv's module runs without a kernel of its own, sampled in float32.

    Args:
        value: Values (B, N, heads, d) of all levels, level by level, each row by row.
        value_spatial_shapes: (levels, 2) as (H, W); N is the sum of H * W.
        sampling_locations: Points (B, Q, heads, levels, points, 2) as (x, y) in 0..1 of each level.
        attention_weights: (B, Q, heads, levels, points).

    Returns:
        Tensor (B, Q, heads * d) of the type of ``value``.
    """
    sizes = [(int(h), int(w)) for h, w in value_spatial_shapes]
    wide = widened(value)
    given = (t.to(wide.dtype) for t in (sampling_locations, attention_weights))
    locations, weights = given
    return by_grid_sample(wide, sizes, locations, weights).to(value.dtype)


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """:func:`multi_scale_deformable_attn_pytorch`; the levels follow each other."""
    return multi_scale_deformable_attn_pytorch(
        value, value_spatial_shapes, sampling_locations, attention_weights
    ).contiguous()


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Write the gradients of values, points and weights."""
    with torch.enable_grad():
        leaves = [
            t.detach().requires_grad_() for t in (value, sampling_locations, attention_weights)
        ]
        output = multi_scale_deformable_attn_pytorch(leaves[0], value_spatial_shapes, *leaves[1:])
    grads = torch.autograd.grad(output, leaves, grad_output)
    for target, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads):
        target.copy_(grad)
