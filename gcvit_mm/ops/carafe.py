"""CARAFE (arXiv 1905.02188): upsampling whose kernel is another one at every pixel."""

from typing import Iterator, Tuple

import torch.nn.functional as F
from torch import Tensor

from .boxes import widened


def taps(
    features: Tensor, masks: Tensor, kernel: int, groups: int, scale: int
) -> Iterator[Tuple[Tensor, Tensor, Tuple[slice, slice]]]:
    """The taps of the kernel.

    Args:
        features: (B, C, H, W), padded by half of the kernel.
        masks: (B, groups * kernel ** 2, H * scale, W * scale).
        kernel: Its side.
        groups: Groups of channels with a kernel of their own.
        scale: Factor of the upsampling.

    Yields:
        Features (B, groups, C / groups, H, 1, W, 1), weights (B, groups, 1, H, scale, W, scale),
        and the part of the padded map that the features are.
    """
    b, c, height, width = features.shape
    height, width = height - kernel + 1, width - kernel + 1
    split = masks.view(b, groups, kernel * kernel, 1, height, scale, width, scale)
    for tap in range(kernel * kernel):
        i, j = divmod(tap, kernel)
        part = (slice(i, i + height), slice(j, j + width))
        seen = features[:, :, part[0], part[1]]
        seen = seen.reshape(b, groups, c // groups, height, 1, width, 1)
        yield seen, split[:, :, tap], part


def carafe_naive_forward(
    features: Tensor,
    masks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Upsample.

    Args:
        features: (B, C, H, W).
        masks: (B, group_size * kernel_size ** 2, H * scale, W * scale).
        output: (B, C, H * scale, W * scale); written.
        kernel_size: Side of the kernel.
        group_size: Groups of channels with a kernel of their own.
        scale_factor: Factor of the upsampling.
    """
    b, c, height, width = features.shape
    wide, weights = widened(features), widened(masks)
    padded = F.pad(wide, [kernel_size // 2] * 4)
    shape = (b, group_size, c // group_size, height, scale_factor, width, scale_factor)
    total = wide.new_zeros(shape)
    for seen, weight, _ in taps(padded, weights, kernel_size, group_size, scale_factor):
        total.addcmul_(seen, weight)
    output.copy_(total.view(output.shape))


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the gradients of features and masks."""
    b, c, height, width = features.shape
    padded = F.pad(widened(features), [kernel_size // 2] * 4)
    shape = (b, group_size, c // group_size, height, scale_factor, width, scale_factor)
    grad = widened(top_grad).reshape(shape)
    total, by_mask = padded.new_zeros(padded.shape), []
    for seen, weight, part in taps(padded, widened(masks), kernel_size, group_size, scale_factor):
        total[:, :, part[0], part[1]] += (grad * weight).sum((4, 6)).view(b, c, height, width)
        by_mask.append((grad * seen).sum(2))
    edge = kernel_size // 2
    bottom_grad.copy_(total[..., edge : edge + height, edge : edge + width])
    for tap, value in enumerate(by_mask):
        mask_grad.view(b, group_size, kernel_size**2, *masks.shape[2:])[:, :, tap] = value.reshape(
            b, group_size, *masks.shape[2:]
        )


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """As :func:`carafe_naive_forward`; ``rfeatures`` is what mmcv hands to the gradient."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """As :func:`carafe_naive_backward`; the other buffers are not used."""
    given = (top_grad, rfeatures, masks, bottom_grad, mask_grad)
    carafe_naive_backward(*given, kernel_size, group_size, scale_factor)
