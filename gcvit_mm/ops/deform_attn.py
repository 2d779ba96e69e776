"""Multi-scale deformable attention (arXiv 2010.04159) in plain torch."""

from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..compat import is_compiling
from .boxes import widened
from .roi_align import transposed_sum

Sizes = Sequence[Tuple[int, int]]


def by_grid_sample(value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
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


class Axis(NamedTuple):
    """The two pixels next to points along an axis, and their weights.

    Args:
        low: First pixel, int32, moved onto the map.
        high: Second.
        of_low: Its weight; 0 where the pixel is not on the map.
        of_high: That of the second.
        slope_low: Change of that weight by a pixel: -1 or 0.
        slope_high: Change of the second's: 1 or 0.
    """

    low: Tensor
    high: Tensor
    of_low: Tensor
    of_high: Tensor
    slope_low: Tensor
    slope_high: Tensor


def along(place: Tensor, size: Tensor) -> Axis:
    """Pixels next to points of any shape, on maps of sizes that broadcast over them."""
    below = place.floor()
    fraction = place - below
    # far points do not fit into an int32, and some are no numbers
    low = below.nan_to_num(-2).clamp(-2, 1 << 24).to(torch.int32)
    has_low, has_high = (low >= 0) & (low < size), (low >= -1) & (low < size - 1)
    nothing = torch.zeros((), dtype=place.dtype, device=place.device)
    return Axis(
        low.clamp(min=0).minimum(size - 1),
        (low + 1).clamp(min=0).minimum(size - 1),
        torch.where(has_low, 1 - fraction, nothing),
        torch.where(has_high, fraction, nothing),
        -has_low.to(place.dtype),
        has_high.to(place.dtype),
    )


def rows_of(
    shape: torch.Size, sizes: Sizes, locations: Tensor
) -> Tuple[Tensor, Axis, Axis, Tensor]:
    """Rows (B, Q, heads, 4, levels, points) of a table of all pixels and heads; x, y; sizes."""
    b, n, heads, _ = shape
    counts = [h * w for h, w in sizes]
    like: Dict[str, Any] = dict(dtype=torch.int32, device=locations.device)
    size = torch.tensor([(w, h) for h, w in sizes], **like)[:, None]  # (levels, 1, 2)
    starts = torch.tensor([sum(counts[:i]) for i in range(len(sizes))], **like)[:, None]
    x, y = (along(locations[..., i] * size[..., i] - 0.5, size[..., i]) for i in (0, 1))
    head = torch.arange(heads, **like)[:, None, None]
    base = (torch.arange(b, **like).view(-1, 1, 1, 1, 1) * n + starts) * heads + head
    upper, lower = (base + row * (size[..., 0] * heads) for row in (y.low, y.high))
    left, right = x.low * heads, x.high * heads
    rows = torch.stack([upper + left, upper + right, lower + left, lower + right], 3)
    return rows, x, y, size


def corners(x: Tuple[Tensor, Tensor], y: Tuple[Tensor, Tensor]) -> Tensor:
    """Products of weights along x and y, (..., 4, levels, points) in the order of the rows."""
    return torch.stack([a * b for b in y for a in x], 3)


class RowSum(torch.autograd.Function):
    """Sampling as a sum of rows of a table, a row a pixel and head: what CPUs are fast at."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor
    ) -> Tensor:
        """Arguments and result as :func:`by_grid_sample`."""
        ctx.sizes = sizes
        ctx.save_for_backward(value, locations, weights)
        rows, x, y, _ = rows_of(value.shape, sizes, locations)
        factors = corners((x.of_low, x.of_high), (y.of_low * weights, y.of_high * weights))
        b, queries, heads = locations.shape[:3]
        bags = (b * queries * heads, rows[0, 0, 0].numel())
        summed = F.embedding_bag(
            rows.view(bags),
            value.reshape(-1, value.shape[3]),
            mode='sum',
            per_sample_weights=factors.view(bags),
        )
        return summed.view(b, queries, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        """Gradients of values, points and weights."""
        value, locations, weights = ctx.saved_tensors
        rows, x, y, size = rows_of(value.shape, ctx.sizes, locations)
        of_x, of_y = (x.of_low, x.of_high), (y.of_low, y.of_high)
        factors = corners(of_x, of_y)
        table = value.reshape(-1, value.shape[3])
        grad = grad.reshape(-1, table.shape[1]).contiguous()
        index = rows.view(len(grad), -1)
        # how the sum changes with the factor of each entry
        with torch.enable_grad():
            leaf = torch.zeros_like(index, dtype=grad.dtype).requires_grad_()
            summed = F.embedding_bag(index, table, mode='sum', per_sample_weights=leaf)
        dots = torch.autograd.grad(summed, leaf, grad)[0].view(rows.shape)
        by_value = None
        if ctx.needs_input_grad[0]:
            entries = (factors * weights.unsqueeze(3)).view(index.shape)
            by_value = transposed_sum(grad, index, entries, len(table)).view(value.shape)
        change = [
            (dots * corners((x.slope_low, x.slope_high), of_y)).sum(3) * weights * size[..., 0],
            (dots * corners(of_x, (y.slope_low, y.slope_high))).sum(3) * weights * size[..., 1],
        ]
        return by_value, None, torch.stack(change, -1), (dots * factors).sum(3)


def sample(value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples, in the faster form.

    Args:
        value: Values (B, N, heads, d) of all levels, level by level, each row by row.
        sizes: ``(H, W)`` of every level; N is the sum of H * W.
        locations: Points (B, Q, heads, levels, points, 2) as (x, y) in 0..1 of each level.
        weights: Weights (B, Q, heads, levels, points).

    Returns:
        Tensor (B, Q, heads * d).
    """
    traced = torch.jit.is_tracing() or is_compiling()
    numbers = value.shape[:3].numel()
    if value.device.type != 'cpu' or traced or not 0 < numbers < 1 << 31 or not weights.numel():
        return by_grid_sample(value, sizes, locations, weights)
    return RowSum.apply(value, sizes, locations, weights)


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
    return sample(wide, sizes, locations, weights).to(value.dtype)


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
