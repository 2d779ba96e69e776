"""Maps as tables with a row a pixel: whole maps, or the pixels that boxes touch.

To move channels to the end takes longer than to pool few boxes of a large map.
"""

from typing import Iterator, Optional, Tuple

import torch
from torch import Tensor

from .boxes import widened
from .roi_align_samples import Geometry

# of the pixels of a map: where boxes touch fewer, the others are left where they are
SHARE = 0.6


def prepare(rois: Tensor, like: Tensor) -> Tensor:
    """Boxes in the type that positions are computed in."""
    return rois.detach().to(torch.float64 if like.dtype == torch.float64 else torch.float32)


def to_table(x: Tensor, rows: Optional[Tensor] = None) -> Tensor:
    """A map (B, C, H, W) as a table; 16-bit types become float32.

    Args:
        x: The map.
        rows: Of which pixels, by rising number (image, y, x); None for all.

    Returns:
        Tensor (n, C).
    """
    if rows is None:
        return widened(x).permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    table = widened(x[:0]).new_empty(len(rows), x.shape[1])
    for image, part, pixels in by_image(rows, x.shape[2] * x.shape[3]):
        table[part] = x[image].flatten(1).index_select(1, pixels).t()
    return table


def to_map(table: Tensor, x: Tensor, rows: Optional[Tensor] = None) -> None:
    """Write a table (n, C) into a map of zeros (B, C, H, W); arguments as :func:`to_table`."""
    if rows is None:
        x.copy_(table.view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2))
        return
    for image, part, pixels in by_image(rows, x.shape[2] * x.shape[3]):
        x[image].view(len(x[image]), -1).index_copy_(1, pixels, table[part].t().to(x.dtype))


def by_image(rows: Tensor, pixels: int) -> Iterator[Tuple[int, slice, Tensor]]:
    """Images, which of the rows are theirs, and the pixels that those are."""
    images, counts = torch.unique_consecutive(
        rows.div(pixels, rounding_mode='floor'), return_counts=True
    )
    start = 0
    for image, count in zip(images.tolist(), counts.tolist()):
        part = slice(start, start + count)
        yield image, part, rows[part] - image * pixels
        start += count


def touched(x: Tensor, rois: Tensor, geometry: Geometry) -> Optional[Tensor]:
    """Rows of the table of a map that boxes may sample, by rising number; None for all.

    Args:
        x: The map (B, C, H, W), or one of its shape and strides.
        rois: Boxes (R, 5).
        geometry: What is asked for.
    """
    if not x.is_contiguous():
        return None
    height, width = geometry.size
    low = rois[:, 1:3] * geometry.scale - (0.5 if geometry.aligned else 0.0)
    high = low + (rois[:, 3:] - rois[:, 1:3]) * geometry.scale
    high = high if geometry.aligned else torch.maximum(high, low + 1)
    last = torch.tensor([width - 1, height - 1], device=rois.device)
    # a pixel more on either side than is needed: positions are rounded
    first = (low.nan_to_num(0).floor() - 1).clamp(min=0).minimum(last).long()
    end = (high.nan_to_num(0).floor() + 2).clamp(min=0).minimum(last).long() + 1
    good = (end > first).all(1)
    x1, y1, x2, y2 = torch.cat([first, end], 1)[good].unbind(1)
    # how many boxes a pixel is in, as sums over the corners of the boxes
    image = rois[good, 0].long()
    change = torch.zeros(len(x), height + 1, width + 1, dtype=torch.int32, device=rois.device)
    one = torch.ones_like(image, dtype=torch.int32)
    for y, column, sign in ((y1, x1, one), (y1, x2, -one), (y2, x1, -one), (y2, x2, one)):
        change.index_put_((image, y, column), sign, accumulate=True)
    inside = change.cumsum(1).cumsum(2)[:, :height, :width] > 0
    rows = inside.flatten().nonzero()[:, 0]
    return rows if len(rows) < SHARE * inside.numel() else None


def renumbered(rows: Tensor, number: int) -> Tensor:
    """Where each of a number of rows stands among the chosen ones; 0 for others, of no weight."""
    place = rows.new_zeros(number)
    place[rows] = torch.arange(len(rows), device=rows.device)
    return place
