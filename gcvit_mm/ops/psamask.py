"""The masks of PSANet (ECCV 2018): attention over offsets becomes attention over pixels."""

from typing import Tuple

import torch
from torch import Tensor


def columns(w_feature: int, w_mask: int, half: int, like: Tensor) -> Tuple[Tensor, Tensor]:
    """For pixel w' (rows) and w (columns) the offset of w' from w in the mask; whether it is in."""
    pixel = torch.arange(w_feature, device=like.device)
    index = pixel[:, None] - pixel + half
    return index.clamp(0, w_mask - 1), (index >= 0) & (index < w_mask)


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Spread masks out.

    Args:
        input: (B, h_mask * w_mask, H, W): of each pixel (h, w) a weight for each offset.
        output: (B, H * W, H, W) of zeros; written.
        psa_type: 0 collect, where the channel is the pixel at the offset; 1 distribute, where the
            channel is the pixel itself and the place is that at the offset.
        num_: B.
        h_feature: H.
        w_feature: W.
        h_mask: Height of a mask.
        w_mask: Width of a mask.
        half_h_mask: Row of the mask that is no offset.
        half_w_mask: Column that is none.
    """
    masks = input.view(num_, h_mask, w_mask, h_feature, w_feature)
    spread = output.view(num_, h_feature, w_feature, h_feature, w_feature)
    index, inside = columns(w_feature, w_mask, half_w_mask, input)
    for h in range(h_feature):
        start, end = max(0, h - half_h_mask), min(h_feature, h_mask + h - half_h_mask)
        shift = half_h_mask - h
        seen = masks[:, start + shift : end + shift, :, h]
        seen = seen.gather(2, index.expand(num_, end - start, -1, -1)) * inside
        if psa_type == 0:
            spread[:, start:end, :, h] = seen
        else:
            spread[:, h, :, start:end] = seen.permute(0, 3, 1, 2)


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Gradient of :func:`psamask_forward`; ``grad_input`` of zeros is written."""
    masks = grad_input.view(num_, h_mask, w_mask, h_feature, w_feature)
    spread = grad_output.reshape(num_, h_feature, w_feature, h_feature, w_feature)
    offset = torch.arange(w_mask, device=grad_output.device)[:, None] - half_w_mask
    index = offset + torch.arange(w_feature, device=grad_output.device)
    inside = (index >= 0) & (index < w_feature)
    index = index.clamp(0, w_feature - 1)
    for h in range(h_feature):
        start, end = max(0, h - half_h_mask), min(h_feature, h_mask + h - half_h_mask)
        shift = half_h_mask - h
        if psa_type == 0:
            seen = spread[:, start:end, :, h]
        else:
            seen = spread[:, h, :, start:end].permute(0, 2, 3, 1)
        seen = seen.gather(2, index.expand(num_, end - start, -1, -1)) * inside
        masks[:, start + shift : end + shift, :, h] = seen
