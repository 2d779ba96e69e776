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
from .roi_align_samples import Geometry, Samples, take_pixels, take_samples

# entries (a pixel of a bin, 8 bytes) handled at once: bounds the memory, whatever the boxes are
FORWARD_ENTRIES = 1 << 20
BACKWARD_ENTRIES = 1 << 23
# numbers of one tensor of samples of a max pooling, and of a table of samples
SAMPLES = 1 << 22

Bags = Tuple[Tensor, Tensor, Tensor]


def portions(rois: Tensor, geometry: Geometry) -> Iterator[Tensor]:
    """Boxes (R,) so many at once that their tables of samples stay small."""
    longest = max(geometry.size) * 2 + 8
    if geometry.ratio <= 0 and len(rois):
        extent = (rois[:, 3:] - rois[:, 1:3]).max() * geometry.scale
        longest = int(min(float(extent.nan_to_num(0)) / min(geometry.bins) + 2, longest))
    one = max(geometry.bins) * max(longest, geometry.ratio, 1)
    yield from torch.arange(len(rois), device=rois.device).split(max(1, SAMPLES // one))


def bags(rois: Tensor, geometry: Geometry, limit: int) -> Iterator[Bags]:
    """Pixels and weights of all bins; boxes without any are left out.

    Args:
        rois: Boxes (R, 5).
        geometry: What is asked for.
        limit: Most entries (a pixel of a bin) of one step, unless a single box has more.

    Yields:
        The boxes (n,), rows of the table (n * bins, K), weights (n * bins, K).
    """
    for portion in portions(rois, geometry):
        y, x = (take_pixels(rois[portion], geometry, axis) for axis in (0, 1))
        images = rois[portion, 0].long()[:, None, None] * geometry.size[0]
        rows = (y.place + images) * geometry.size[1]
        base = x.weight.shape[2] + 1
        key, order = (y.number * base + x.number).sort()
        kinds, counts = torch.unique_consecutive(key, return_counts=True)
        for kind, boxes in zip(kinds.tolist(), order.split(counts.tolist())):
            ky, kx = divmod(kind, base)
            entries = geometry.bins[0] * geometry.bins[1] * ky * kx
            for part in boxes.split(max(1, limit // entries)) if entries else ():
                index = rows[part, :, None, :ky, None] + x.place[part, None, :, None, :kx]
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


def prepare(rois: Tensor, like: Tensor) -> Tensor:
    """Boxes in the type that positions are computed in."""
    return rois.detach().to(torch.float64 if like.dtype == torch.float64 else torch.float32)


def to_table(x: Tensor) -> Tensor:
    """A map (B, C, H, W) as a table (B * H * W, C); 16-bit types become float32."""
    return widened(x).permute(0, 2, 3, 1).reshape(-1, x.shape[1])


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
    rois, table = prepare(rois, input), to_table(input)
    if pool_mode == 0:
        pool_max(table, rois, geometry, output, argmax_y, argmax_x)
        return
    for boxes, index, weight in bags(rois, geometry, FORWARD_ENTRIES):
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
    bins, (images, channels, height, width) = (aligned_height, aligned_width), grad_input.shape
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
        table = max_backward(grad_output, rois, geometry, argmax_y, argmax_x, images)
    else:
        table = average_backward(grad_output, rois, geometry, images)
    grad_input.copy_(table.view(images, height, width, channels).permute(0, 3, 1, 2))


def average_backward(grad_output: Tensor, rois: Tensor, geometry: Geometry, images: int) -> Tensor:
    """Gradient of the table (B * H * W, C): every pixel sums the bins that it is in."""
    rows, channels = images * geometry.size[0] * geometry.size[1], grad_output.shape[1]
    total = widened(grad_output).new_zeros(rows, channels)
    waiting: List[Bags] = []
    number = 0
    for bag in bags(rois, geometry, BACKWARD_ENTRIES):
        if waiting and number + bag[1].numel() > BACKWARD_ENTRIES:
            total += transposed(grad_output, waiting, rows)
            waiting, number = [], 0
        waiting.append(bag)
        number += bag[1].numel()
    return total + transposed(grad_output, waiting, rows) if waiting else total


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


def max_portions(
    rois: Tensor, geometry: Geometry, channels: int
) -> Iterator[Tuple[Tensor, Samples, Samples]]:
    """Boxes (n,) so few that their samples fit, with the samples along y and x."""
    for portion in portions(rois, geometry):
        y, x = (take_samples(rois[portion], geometry, axis) for axis in (0, 1))
        one = geometry.bins[0] * geometry.bins[1] * y.low.shape[2] * x.low.shape[2] * channels
        for part in torch.arange(len(portion), device=rois.device).split(max(1, SAMPLES // one)):
            yield portion[part], Samples(*(t[part] for t in y)), Samples(*(t[part] for t in x))


def corners(
    images: Tensor, y: Samples, x: Samples, geometry: Geometry
) -> Iterator[Tuple[Tensor, Tensor]]:
    """Rows of the table and weights of the four pixels of samples, (n, bins, K) each.

    Args:
        images: (n, 1, 1, 1, 1).
        y: Samples along y, broadcastable over (n, bins, bins, K, K).
        x: Samples along x, as ``y``.
        geometry: What is asked for.
    """
    height, width = geometry.size
    for row, of_row in ((y.low, 1 - y.fraction), (y.high, y.fraction)):
        for column, of_column in ((x.low, 1 - x.fraction), (x.high, x.fraction)):
            yield (images * height + row) * width + column, of_row * of_column


def over_grid(samples: Samples, axis: int) -> Samples:
    """Samples (n, bins, K) along an axis, broadcastable over (n, bins, bins, K, K)."""
    if axis == 0:
        return Samples(*(t[:, :, None, :, None] for t in samples))
    return Samples(*(t[:, None, :, None, :] for t in samples))


def pool_max(
    table: Tensor,
    rois: Tensor,
    geometry: Geometry,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
) -> None:
    """The largest sample of each bin; those outside of the map are 0 and count."""
    bins, channels = geometry.bins, table.shape[1]
    for boxes, y, x in max_portions(rois, geometry, channels):
        columns = x.low.shape[2]
        y, x = over_grid(y, 0), over_grid(x, 1)
        images = rois[boxes, 0].long().view(-1, 1, 1, 1, 1)
        value = torch.stack(
            [table[row] * w[..., None] for row, w in corners(images, y, x, geometry)]
        ).sum(0)
        inside = (y.inside & x.inside)[..., None]
        value = value.masked_fill(~inside, float('-inf')).flatten(3, 4)
        peak, place = value.max(3)
        # samples that were left out, and those that are not inside, are zeros
        taken = inside.flatten(3, 4).sum(3)
        zero = (taken < (y.total * x.total).flatten(1)[:, :, None, None]) & (peak <= 0)
        none = zero | (taken == 0)
        peak = peak.masked_fill(none, 0)
        place = place.masked_fill(none, -1)
        shape = (len(boxes), channels, *bins)
        for target, source in (
            (output, peak),
            (argmax_y, place.div(columns, rounding_mode='floor')),
            (argmax_x, place.remainder(columns)),
        ):
            target[boxes] = source.permute(0, 3, 1, 2).reshape(shape).to(target.dtype)


def max_backward(
    grad_output: Tensor,
    rois: Tensor,
    geometry: Geometry,
    argmax_y: Tensor,
    argmax_x: Tensor,
    images: int,
) -> Tensor:
    """Gradient of the table (B * H * W, C): to the pixels of each bin's largest sample."""
    channels = grad_output.shape[1]
    grad = widened(grad_output)
    total = grad.new_zeros(images * geometry.size[0] * geometry.size[1], channels)
    channel = torch.arange(channels, device=grad.device).view(1, -1, 1, 1)
    for boxes, y, x in max_portions(rois, geometry, channels):
        shape = (len(boxes), channels, *geometry.bins)
        none = argmax_y[boxes] < 0
        row, column = (
            Samples(*(chosen(t, argmax[boxes], axis, shape) for t in samples))
            for axis, samples, argmax in ((0, y, argmax_y), (1, x, argmax_x))
        )
        images_of = rois[boxes, 0].long().view(-1, 1, 1, 1)
        for place, weight in corners(images_of, row, column, geometry):
            add = (grad[boxes] * weight).masked_fill(none, 0)
            total.view(-1).index_add_(0, (place * channels + channel).flatten(), add.flatten())
    return total


def chosen(t: Tensor, number: Tensor, axis: int, shape: Tuple[int, ...]) -> Tensor:
    """Of what samples (n, bins, K) have, that of one of them (n, C, bins, bins) in each bin.

    Args:
        t: (n, bins, K), or (n, 1, 1).
        number: Which of the K; negative for none, and then the first is given.
        axis: That of the samples (0: y, 1: x).
        shape: (n, C, bins, bins).
    """
    t = t[:, None, :, None] if axis == 0 else t[:, None, None]
    place = number.long().clamp(0, t.shape[-1] - 1)[..., None]
    return t.expand(*shape, t.shape[-1]).gather(4, place)[..., 0]
