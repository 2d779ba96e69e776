"""Deformable RoI pooling (arXiv 1703.06211): RoIAlign whose bins are moved by learned offsets."""

from typing import Iterator, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .boxes import widened
from .roi_align import check_images
from .roi_align_table import prepare, to_table

# entries (a pixel of a bin) handled at once: bounds the memory
ENTRIES = 1 << 21


def grids(rois: Tensor, bins: Tuple[int, int], scale: float, ratio: int) -> Iterator[Tuple]:
    """Boxes (n,) with the same grid of samples, and its height and width; empty ones are left out.

    Args:
        rois: (R, 5).
        bins: (height, width) of the output.
        scale: Of the coordinates.
        ratio: Samples a bin along an axis; 0 for one a pixel.
    """
    size = (rois[:, 3:] - rois[:, 1:3]) * scale / rois.new_tensor(bins[::-1])
    count = torch.full_like(size, ratio) if ratio > 0 else size.ceil().clamp(min=0)
    for width, height in torch.unique(count, dim=0).tolist():
        boxes = (count == count.new_tensor([width, height])).all(1).nonzero()[:, 0]
        entries = int(4 * height * width * bins[0] * bins[1])
        for part in boxes.split(max(1, ENTRIES // entries)) if entries else ():
            yield part, int(height), int(width)


def along(start: Tensor, size: Tensor, number: int, length: int, axis: int) -> Tuple[Tensor, ...]:
    """Samples along an axis.

    Args:
        start: Where bins start (n, bins, bins), bins along y before those along x.
        size: Of a bin (n, 1, 1).
        number: Samples a bin.
        length: Of the map.
        axis: 0 for y, 1 for x.

    Returns:
        The two pixels, the second's weight and whether a sample is on the map: (n, bins, bins,
        number) each.
    """
    bins = torch.arange(start.shape[1 + axis], device=start.device, dtype=start.dtype)
    bins = bins[:, None] if axis == 0 else bins
    steps = torch.arange(number, device=start.device, dtype=start.dtype) + 0.5
    place = (start + bins * size)[..., None] + steps * size[..., None] / number
    inside = (place >= -1) & (place <= length)
    place = place.clamp(0, length - 1)
    low = place.detach().long()
    return low, (low + 1).clamp(max=length - 1), place - low, inside


def pool(
    table: Tensor,
    rois: Tensor,
    offset: Tensor,
    size: Tuple[int, int],
    bins: Tuple[int, int],
    scale: float,
    ratio: int,
    gamma: float,
) -> Iterator[Tuple[Tensor, Tensor]]:
    """Boxes (n,) and their bins (n, C, height, width).

    Args:
        table: The map (B * H * W, C), a row a pixel.
        rois: (R, 5).
        offset: (R, 2, height, width) as (x, y) in sizes of the box, or without an element.
        size: (H, W).
        bins: (height, width).
        scale: Of the coordinates.
        ratio: Samples a bin along an axis; 0 for one a pixel.
        gamma: Factor of the offsets.
    """
    for boxes, rows, columns in grids(rois, bins, scale, ratio):
        box = rois[boxes]
        start = (box[:, 1:3] * scale - 0.5)[..., None, None].expand(-1, -1, *bins)
        extent = ((box[:, 3:] - box[:, 1:3]) * scale)[..., None, None]
        if offset.numel():
            start = start + gamma * extent * offset[boxes]
        y = along(start[:, 1], extent[:, 1] / bins[0], rows, size[0], 0)
        x = along(start[:, 0], extent[:, 0] / bins[1], columns, size[1], 1)
        low_y, high_y, part_y, in_y = (t[..., :, None] for t in y)
        low_x, high_x, part_x, in_x = (t[..., None, :] for t in x)
        base = box[:, 0].long().view(-1, 1, 1, 1, 1) * size[0]
        index, weight = [], []
        for place_y, weight_y in ((low_y, 1 - part_y), (high_y, part_y)):
            for place_x, weight_x in ((low_x, 1 - part_x), (high_x, part_x)):
                index.append((base + place_y) * size[1] + place_x)
                weight.append(weight_y * weight_x * (in_y & in_x) / (rows * columns))
        bag = len(boxes) * bins[0] * bins[1]
        pooled = F.embedding_bag(
            torch.stack(index, -1).reshape(bag, -1),
            table,
            mode='sum',
            per_sample_weights=torch.stack(weight, -1).reshape(bag, -1),
        )
        yield boxes, pooled.view(len(boxes), *bins, -1).permute(0, 3, 1, 2)


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Pool boxes of maps (B, C, H, W) into ``output`` (R, C, height, width) of zeros."""
    if not output.numel() or not input.numel():
        return
    check_images(rois, len(input))
    size = (input.shape[2], input.shape[3])
    given = (to_table(input), prepare(rois, input), prepare(offset, input), size)
    how = ((pooled_height, pooled_width), spatial_scale, sampling_ratio, gamma)
    for boxes, pooled in pool(*given, *how):
        output[boxes] = pooled.to(output.dtype)


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Write the gradients of maps and offsets."""
    if not grad_output.numel() or not input.numel():
        return
    table = to_table(input).detach().requires_grad_()
    moved = prepare(offset, input).requires_grad_()
    how = ((pooled_height, pooled_width), spatial_scale, sampling_ratio, gamma)
    b, c, h, w = input.shape
    with torch.enable_grad():
        for boxes, pooled in pool(table, prepare(rois, input), moved, (h, w), *how):
            pooled.backward(widened(grad_output)[boxes])
    if table.grad is not None:
        grad_input.copy_(table.grad.view(b, h, w, c).permute(0, 3, 1, 2))
    if moved.grad is not None:
        grad_offset.copy_(moved.grad)
