"""RoI max pooling (arXiv 1504.08083) by mmcv's rule: edges of bins are not rounded to pixels first.

torchvision rounds the corners of boxes and is not the same.
"""

from typing import Tuple

import torch
from torch import Tensor

from .roi_align import check_images
from .roi_align_table import prepare

# numbers of one tensor of pixels: bounds the memory
NUMBERS = 1 << 22


def spans(rois: Tensor, scale: float, bins: int, length: int, axis: int) -> Tuple[Tensor, Tensor]:
    """First pixel and the one behind the last (R, bins) of the bins along an axis (0: y, 1: x)."""
    start = rois[:, 2 - axis] * scale
    extent = (rois[:, 4 - axis] + 1) * scale - start
    size = (extent / bins)[:, None]
    edge = torch.arange(bins + 1, device=rois.device, dtype=rois.dtype) * size
    first = (edge[:, :-1] + start[:, None]).floor().nan_to_num(0).clamp(0, length).long()
    last = (edge[:, 1:] + start[:, None]).ceil().nan_to_num(0).clamp(0, length).long()
    return first, torch.where((extent > 0)[:, None], last, first)


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Pool boxes of maps.

    Args:
        input: Maps (B, C, H, W).
        rois: Boxes (R, 5) as (image, x1, y1, x2, y2), the last pixel included.
        output: (R, C, pooled_height, pooled_width) of zeros; written. Empty bins stay 0.
        argmax: As ``output``, int32; written: the pixel as y * W + x, -1 for empty bins.
        pooled_height: Bins along y.
        pooled_width: Bins along x.
        spatial_scale: Size of the map over size of the image.
    """
    argmax.fill_(-1)
    if not output.numel() or not input.numel():
        return
    check_images(rois, len(input))
    channels, height, width = input.shape[1:]
    given = prepare(rois, input)
    y, y_end = spans(given, spatial_scale, pooled_height, height, 0)
    x, x_end = spans(given, spatial_scale, pooled_width, width, 1)
    flat = input.reshape(len(input), channels, -1)
    # boxes of a size together, so that few pixels are looked at in vain
    tall, wide = (y_end - y).amax(1), (x_end - x).amax(1)
    order = (tall * (width + 1) + wide).argsort()
    while len(order):
        last = order[-1:]
        one = int(tall[last]) * max(1, int(wide[order].max())) * channels * output[0, 0].numel()
        part, order = (
            order[-max(1, NUMBERS // max(one, 1)) :],
            order[: -max(1, NUMBERS // max(one, 1))],
        )
        rows = y[part, :, None] + torch.arange(int(tall[part].max()), device=rois.device)
        cols = x[part, :, None] + torch.arange(int(wide[part].max()), device=rois.device)
        inside = (rows < y_end[part, :, None])[:, :, None, :, None] & (
            (cols < x_end[part, :, None])[:, None, :, None, :]
        )
        if not inside.numel():
            continue
        place = rows[:, :, None, :, None] * width + cols[:, None, :, None, :]
        place = place.where(inside, torch.zeros_like(place)).flatten(3)
        inside = inside.flatten(3)[:, None]
        image = rois[part, 0].long().view(-1, 1, 1, 1, 1)
        channel = torch.arange(channels, device=rois.device).view(-1, 1, 1, 1)
        seen = flat[image, channel, place[:, None]].masked_fill(~inside, float('-inf'))
        peak, at = seen.max(4)
        some = inside.any(4)
        output[part] = peak.where(some, torch.zeros_like(peak))
        at = place[:, None].expand(*peak.shape, -1).gather(4, at[..., None])[..., 0]
        argmax[part] = at.where(some, -torch.ones_like(at)).to(argmax.dtype)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Gradient of :func:`roi_pool_forward`; ``grad_input`` (B, C, H, W) of zeros is written."""
    if not grad_output.numel() or not grad_input.numel():
        return
    channels = grad_input.shape[1]
    plane = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    some = argmax >= 0
    index = plane[:, :, None, None] * (grad_input.shape[2] * grad_input.shape[3]) + argmax
    total = torch.zeros_like(grad_input, memory_format=torch.contiguous_format)
    total.view(-1).index_add_(0, index[some], grad_output[some].to(total.dtype))
    grad_input.copy_(total)
