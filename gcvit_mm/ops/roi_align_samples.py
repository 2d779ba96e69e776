"""Where RoIAlign samples a map, along one axis at a time."""

from typing import Iterator, NamedTuple, Tuple

import torch
from torch import Tensor

# numbers of a tensor of samples: bounds the memory
SAMPLES = 1 << 22


class Geometry(NamedTuple):
    """What RoIAlign is asked for.

    Args:
        size: (height, width) of the map.
        bins: (height, width) of the output.
        scale: What coordinates are multiplied by.
        ratio: Samples a bin along an axis; 0 for one a pixel (adaptive).
        aligned: Pixel centres lie at half coordinates.
    """

    size: Tuple[int, int]
    bins: Tuple[int, int]
    scale: float
    ratio: int
    aligned: bool


class Samples(NamedTuple):
    """Samples along an axis, each between two pixels.

    Args:
        low: (R, bins, K) the first pixel.
        high: (R, bins, K) the second.
        fraction: (R, bins, K) weight of the second.
        inside: (R, bins, K) whether it lies on the map.
        total: (R, 1, 1) samples a bin, those outside of the map included.
    """

    low: Tensor
    high: Tensor
    fraction: Tensor
    inside: Tensor
    total: Tensor


class Pixels(NamedTuple):
    """Pixels along an axis, and their weights.

    Args:
        place: (R, bins, K).
        weight: (R, bins, K).
        number: (R,) how many of the K a box has.
    """

    place: Tensor
    weight: Tensor
    number: Tensor


def take_samples(rois: Tensor, geometry: Geometry, axis: int) -> Samples:
    """Samples of boxes (R, 5) along an axis (0: y, 1: x), without those far outside of the map."""
    length, offset = geometry.size[axis], 0.5 if geometry.aligned else 0.0
    start = rois[:, 2 - axis] * geometry.scale - offset
    extent = rois[:, 4 - axis] * geometry.scale - offset - start
    extent = extent if geometry.aligned else extent.clamp(min=1)
    size = (extent / geometry.bins[axis])[:, None, None]
    bins = torch.arange(geometry.bins[axis], device=rois.device, dtype=rois.dtype)[:, None]
    origin = start[:, None, None] + bins * size
    if geometry.ratio > 0:
        count, number = torch.full_like(size, geometry.ratio), geometry.ratio
        first = torch.zeros_like(origin)
    else:
        count = size.ceil().nan_to_num(0).clamp(min=0)
        # steps are 0.5 to 1 pixels where there are several: so many can lie on the map
        number = max(1, int(min(float(count.max()), 2 * length + 8)))
        first = ((-2 - origin) * count / size).floor().clamp(min=0)
        first = torch.where(count > number, first, torch.zeros_like(first))
    k = first + torch.arange(number, device=rois.device, dtype=rois.dtype)
    position = origin + (k + 0.5) * size / count
    inside = (position >= -1) & (position <= length) & (k < count)
    position = torch.where(inside, position, torch.zeros_like(position)).clamp(min=0)
    low = position.long().clamp(max=length - 1)
    fraction = torch.where(low < length - 1, position - low, torch.zeros_like(position))
    return Samples(low, (low + 1).clamp(max=length - 1), fraction, inside, count)


def take_pixels(rois: Tensor, geometry: Geometry, axis: int) -> Pixels:
    """Pixels of boxes (R, 5) along an axis, those that samples share once where samples are dense.

    The weights of a bin add up to the share of its samples that lie on the map.
    """
    low, high, fraction, inside, count = take_samples(rois, geometry, axis)
    share = inside / count.clamp(min=1)
    if geometry.ratio > 0:
        weight = torch.stack([(1 - fraction) * share, fraction * share], -1).flatten(2)
        index = torch.stack([low, high], -1).flatten(2)
        return Pixels(index, weight, count.new_full((len(rois),), index.shape[2]).long())
    first = low.masked_fill(~inside, geometry.size[axis]).amin(2, True)
    last = high.masked_fill(~inside, -1).amax(2, True)
    number = (last - first + 1).clamp(min=0).amax((1, 2))
    weight = share.new_zeros(*share.shape[:2], max(1, int(number.max())))
    weight.scatter_add_(2, ((low - first) * inside).clamp(min=0), (1 - fraction) * share)
    weight.scatter_add_(2, ((high - first) * inside).clamp(min=0), fraction * share)
    index = first + torch.arange(weight.shape[2], device=rois.device)
    return Pixels(index.clamp(max=geometry.size[axis] - 1), weight, number)


def portions(rois: Tensor, geometry: Geometry) -> Iterator[Tensor]:
    """Boxes (R,) so many at once that their tables of samples stay small."""
    longest = max(geometry.size) * 2 + 8
    if geometry.ratio <= 0 and len(rois):
        extent = (rois[:, 3:] - rois[:, 1:3]).max() * geometry.scale
        longest = int(min(float(extent.nan_to_num(0)) / min(geometry.bins) + 2, longest))
    one = max(geometry.bins) * max(longest, geometry.ratio, 1)
    yield from torch.arange(len(rois), device=rois.device).split(max(1, SAMPLES // one))
