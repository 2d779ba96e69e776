"""RoIAlign (arXiv 1703.06870) as a weighted sum of pixels.

A bin averages bilinear samples on a grid, so it is a sum over pixels whose weights are a product of
one factor a row and one a column. On a CPU a map whose channels come last is a table with a row a
pixel, and :func:`torch.nn.functional.embedding_bag` sums rows by weights. Pixels that neighbouring
samples share are summed over once: 3 x 3 entries for 2 x 2 samples, 5 x 5 for 4 x 4.
"""

from typing import Iterator, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .boxes import widened
from .roi_align_max import max_backward, pool_max
from .roi_align_samples import Geometry, portions, take_pixels
from .roi_align_table import prepare, renumbered, to_map, to_table, touched

# entries (a pixel of a bin, 8 bytes) handled at once: bounds the memory, whatever the boxes are
FORWARD_ENTRIES = 1 << 20
BACKWARD_ENTRIES = 1 << 23

Bags = Tuple[Tensor, Tensor, Tensor]


def bags(
    rois: Tensor,
    geometry: Geometry,
    limit: int,
    chosen: Optional[Tensor] = None,
    images: int = 1,
) -> Iterator[Bags]:
    """Pixels and weights of all bins; boxes without any are left out.

    Args:
        rois: Boxes (R, 5).
        geometry: What is asked for.
        limit: Most entries (a pixel of a bin) of one step, unless a single box has more.
        chosen: The pixels that are rows of the table; None for all.
        images: B.

    Yields:
        The boxes (n,), rows of the table (n * bins, K), weights (n * bins, K).
    """
    number = images * geometry.size[0] * geometry.size[1]
    place = None if chosen is None else renumbered(chosen, number)
    for portion in portions(rois, geometry):
        y, x = (take_pixels(rois[portion], geometry, axis) for axis in (0, 1))
        above = rois[portion, 0].long()[:, None, None] * geometry.size[0]
        rows = (y.place + above) * geometry.size[1]
        base = x.weight.shape[2] + 1
        key, order = (y.number * base + x.number).sort()
        kinds, counts = torch.unique_consecutive(key, return_counts=True)
        for kind, boxes in zip(kinds.tolist(), order.split(counts.tolist())):
            ky, kx = divmod(kind, base)
            entries = geometry.bins[0] * geometry.bins[1] * ky * kx
            for part in boxes.split(max(1, limit // entries)) if entries else ():
                index = rows[part, :, None, :ky, None] + x.place[part, None, :, None, :kx]
                index = index if place is None else place[index]
                weight = y.weight[part, :, None, :ky, None] * x.weight[part, None, :, None, :kx]
                shape = (-1, ky * kx)
                yield portion[part], index.reshape(shape), weight.reshape(shape)


def check_images(rois: Tensor, images: int) -> None:
    """Refuse boxes of images that are not there."""
    index = rois[:, 0]
    if bool(((index < 0) | (index >= images)).any()):
        raise ValueError(
            f'boxes are of images {int(index.min())} to {int(index.max())}, the batch has {images}'
        )


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Pool boxes of maps.

    Args:
        input: Maps (B, C, H, W) in any memory format.
        rois: Boxes (R, 5) as (image, x1, y1, x2, y2).
        output: (R, C, aligned_height, aligned_width) of zeros; written. Boxes that are empty or of
            negative size, or not finite, stay 0.
        argmax_y: As ``output``; written by max pooling: the row of the sample in its bin.
        argmax_x: Its column.
        aligned_height: Bins of a box along y.
        aligned_width: Bins along x.
        spatial_scale: Size of the map over size of the image.
        sampling_ratio: Samples a bin along an axis; 0 for one a pixel.
        pool_mode: 0 max, 1 average.
        aligned: Pixel centres lie at half coordinates.
    """
    bins = (aligned_height, aligned_width)
    if not output.numel() or not input.numel():
        return
    if input.is_cuda and pool_mode == 1:
        import torchvision  # noqa: F401

        pooled = torch.ops.torchvision.roi_align(
            widened(input) if input.dtype == torch.bfloat16 else input,
            rois.to(torch.float32 if input.dtype == torch.bfloat16 else input.dtype),
            *(spatial_scale, *bins, sampling_ratio, aligned),
        )
        output.copy_(pooled)
        return
    geometry = Geometry(
        (input.shape[2], input.shape[3]), bins, spatial_scale, sampling_ratio, aligned
    )
    check_images(rois, len(input))
    rois = prepare(rois, input)
    if pool_mode == 0:
        pool_max(to_table(input), rois, geometry, output, argmax_y, argmax_x)
        return
    rows = touched(input, rois, geometry)
    if rows is not None and not len(rows):
        return
    table = to_table(input, rows)
    for boxes, index, weight in bags(rois, geometry, FORWARD_ENTRIES, rows, len(input)):
        pooled = F.embedding_bag(index, table, mode='sum', per_sample_weights=weight)
        pooled = pooled.view(len(boxes), -1, table.shape[1]).transpose(1, 2)
        output[boxes] = pooled.reshape(len(boxes), *output.shape[1:]).to(output.dtype)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Gradient of :func:`roi_align_forward`.

    Args:
        grad_output: (R, C, aligned_height, aligned_width).
        rois: As there.
        argmax_y: As there.
        argmax_x: As there.
        grad_input: (B, C, H, W) of zeros; written.
        aligned_height: As there.
        aligned_width: As there.
        spatial_scale: As there.
        sampling_ratio: As there.
        pool_mode: As there.
        aligned: As there.
    """
    bins, (images, _, height, width) = (aligned_height, aligned_width), grad_input.shape
    if not grad_output.numel() or not grad_input.numel():
        return
    if grad_output.is_cuda and pool_mode == 1:
        import torchvision  # noqa: F401

        grad_input.copy_(
            torch.ops.torchvision._roi_align_backward(
                widened(grad_output) if grad_output.dtype == torch.bfloat16 else grad_output,
                rois.to(
                    torch.float32 if grad_output.dtype == torch.bfloat16 else grad_output.dtype
                ),
                *(spatial_scale, *bins, *grad_input.shape, sampling_ratio, aligned),
            )
        )
        return
    geometry = Geometry((height, width), bins, spatial_scale, sampling_ratio, aligned)
    rois = prepare(rois, grad_output)
    if pool_mode == 0:
        to_map(max_backward(grad_output, rois, geometry, argmax_y, argmax_x, images), grad_input)
        return
    rows = touched(grad_input, rois, geometry)
    number = images * height * width if rows is None else len(rows)
    if not number:
        return
    total: Optional[Tensor] = None
    for portion in gathered(bags(rois, geometry, BACKWARD_ENTRIES, rows, images)):
        part = transposed(grad_output, portion, number)
        total = part if total is None else total.add_(part)
    if total is not None:
        to_map(total, grad_input, rows)


def gathered(parts: Iterator[Bags]) -> Iterator[List[Bags]]:
    """Bags together, as many as are handled at once."""
    waiting: List[Bags] = []
    number = 0
    for bag in parts:
        if waiting and number + bag[1].numel() > BACKWARD_ENTRIES:
            yield waiting
            waiting, number = [], 0
        waiting.append(bag)
        number += bag[1].numel()
    if waiting:
        yield waiting


def transposed(grad_output: Tensor, parts: List[Bags], rows: int) -> Tensor:
    """What some boxes give to the gradient of the table."""
    boxes = torch.cat([part[0] for part in parts])
    like = widened(grad_output[:0])
    last = like.new_empty(len(boxes), grad_output[0, 0].numel(), grad_output.shape[1])
    # some boxes at a time stay in the cache while their channels are moved to the end
    for target, some in zip(last.split(64), boxes.split(64)):
        target.copy_(grad_output[some].flatten(2).transpose(1, 2))
    grad = last.flatten(0, 1)
    bins = torch.arange(len(grad), dtype=torch.int32, device=grad.device)
    sizes = torch.cat([index.new_full((len(index),), index.shape[1]) for _, index, _ in parts])
    index = torch.cat([index.flatten() for _, index, _ in parts])
    weight = torch.cat([weight.flatten() for _, _, weight in parts])
    return transposed_sum(grad, index, weight, rows, bins.repeat_interleave(sizes))


def transposed_sum(
    grad: Tensor, index: Tensor, weight: Tensor, rows: int, bags: Optional[Tensor] = None
) -> Tensor:
    """Gradient of the table of a sum of rows: the same sum, with rows as bags.

    Args:
        grad: Gradient of the sums (bags, C).
        index: Rows of the table, of any shape; (bags, K) without ``bags``.
        weight: As ``index``.
        rows: Rows of the table.
        bags: The bag of each entry.

    Returns:
        Tensor (rows, C).
    """
    each = index.shape[-1]
    index = index.flatten().to(torch.int32 if rows < 1 << 31 else torch.int64)
    order = index.sort()[1]
    ends = torch.bincount(index, minlength=rows).cumsum(0)
    place = order.div(each, rounding_mode='floor') if bags is None else bags[order]
    return F.embedding_bag(
        place.to(torch.int64),
        grad,
        torch.cat([ends.new_zeros(1), ends]),
        mode='sum',
        per_sample_weights=weight.flatten()[order],
        include_last_offset=True,
    )
