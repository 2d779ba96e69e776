"""RoIAlign by the largest of a bin's samples instead of their average, in plain torch."""

from typing import Iterator, Tuple

import torch
from torch import Tensor

from . import roi_align_samples
from .boxes import widened
from .roi_align_samples import Geometry, Samples, portions, take_samples


def max_portions(
    rois: Tensor, geometry: Geometry, channels: int
) -> Iterator[Tuple[Tensor, Samples, Samples]]:
    """Boxes (n,) so few that their samples fit, with the samples along y and x."""
    for portion in portions(rois, geometry):
        y, x = (take_samples(rois[portion], geometry, axis) for axis in (0, 1))
        one = geometry.bins[0] * geometry.bins[1] * y.low.shape[2] * x.low.shape[2] * channels
        for part in torch.arange(len(portion), device=rois.device).split(
            max(1, roi_align_samples.SAMPLES // one)
        ):
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
