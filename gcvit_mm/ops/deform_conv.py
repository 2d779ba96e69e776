"""Deformable convolution (arXiv 1703.06211), plain and modulated (arXiv 1811.11168).

torchvision's kernels take a batch of any size, so nothing depends on ``im2col_step``.
"""

from typing import Optional, Tuple

import torch
from torch import Tensor

from .boxes import widened

# stride, padding and dilation along y and x, groups, deform_groups
Steps = Tuple[int, int, int, int, int, int, int, int]


def convolve(
    steps: Steps,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Optional[Tensor] = None,
    bias: Optional[Tensor] = None,
    grad: Optional[Tensor] = None,
) -> Tuple[Tensor, ...]:
    """Convolve a map, or give the gradients of that.

    Args:
        steps: How.
        input: (B, C, H, W).
        weight: (C', C / groups, kH, kW).
        offset: (B, deform_groups * kH * kW * 2, H', W') as (y, x) of each tap.
        mask: (B, deform_groups * kH * kW, H', W'), or None for ones.
        bias: (C',), or None.
        grad: Gradient (B, C', H', W') of the result.

    Returns:
        The map (B, C', H', W') alone; or the gradients of input, weight, offset, mask and bias.
    """
    import torchvision  # noqa: F401

    x = input if input.is_cuda and input.dtype == torch.float16 else widened(input)
    given = [x, weight, offset]
    given.append(x.new_zeros(len(x), 0, 1, 1) if mask is None else mask)
    given.append(x.new_zeros(len(weight)) if bias is None else bias)
    given = [tensor.to(x.dtype).contiguous() for tensor in given]
    if grad is None:
        return (torch.ops.torchvision.deform_conv2d(*given, *steps, mask is not None),)
    grad = grad.to(x.dtype).contiguous()
    return torch.ops.torchvision._deform_conv2d_backward(grad, *given, *steps, mask is not None)


def head(x: Tensor, size: Tuple[int, ...]) -> Tensor:
    """The first numbers of every image of (B, C, H, W) as a map (B, C, *size).

    mmcv reads offsets and masks that are larger than the output that way, and DyHead (arXiv
    2106.08322, as trained with mmcv) gives it such: another reading would be another model.
    """
    if x.shape[2:] == size:
        return x
    count = x.shape[1] * size[0] * size[1]
    return x.flatten(1)[:, :count].view(*x.shape[:2], *size)


def behind_head(grad: Tensor, like: Tensor) -> Tensor:
    """Gradient of what :func:`head` was given."""
    if grad.shape == like.shape:
        return grad
    total = grad.new_zeros(len(like), like[0].numel())
    total[:, : grad[0].numel()] = grad.flatten(1)
    return total.view(like.shape)


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """:func:`convolve` into ``output``; the buffers are not used."""
    steps = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    output.copy_(convolve(steps, input, weight, offset)[0])


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Write the gradients of input and offset; the buffer keeps that of the weight."""
    steps = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    grads = convolve(steps, input, weight, offset, grad=gradOutput)
    gradInput.copy_(grads[0])
    gradOffset.copy_(grads[2])
    columns.resize_(weight.shape).copy_(grads[1])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add the gradient of the weight, times ``scale``."""
    steps = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    grad = columns  # of deform_conv_backward_input, which mmcv calls first where it calls it
    if grad.shape != gradWeight.shape:
        # the kernel reads only the shape of a weight for the gradient of that weight
        grad = convolve(steps, input, gradWeight, offset, grad=gradOutput)[1]
    gradWeight += scale * grad


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """:func:`convolve` with a mask into ``output``; the buffers are not used."""
    steps = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    offset, mask = (head(t, output.shape[2:]) for t in (offset, mask))
    given = (input, weight, offset, mask, bias if with_bias else None)
    output.copy_(convolve(steps, *given)[0])


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Write all gradients."""
    steps = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    offset, mask = (head(t, grad_output.shape[2:]) for t in (offset, mask))
    given = (input, weight, offset, mask, bias if with_bias else None)
    grads = convolve(steps, *given, grad=grad_output)
    targets = [grad_input, grad_weight, grad_offset, grad_mask, grad_bias]
    for target, value in zip(targets if with_bias else targets[:4], grads):
        target.copy_(behind_head(value, target))
