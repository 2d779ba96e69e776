"""Convolution at chosen pixels (mmcv's MaskedConv2d): to columns, and from columns."""

from torch import Tensor


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """What a kernel sees at n pixels of a map (1, C, H, W); ``col`` (C * kH * kW, n) is written."""
    height, width = im.shape[2:]
    taps = col.view(im.shape[1], kernel_h, kernel_w, -1)
    for i in range(kernel_h):
        y = mask_h_idx + i - pad_h
        for j in range(kernel_w):
            x = mask_w_idx + j - pad_w
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            seen = im[0][:, y.clamp(0, height - 1), x.clamp(0, width - 1)]
            taps[:, i, j] = seen.to(col.dtype).masked_fill(~inside, 0)


def masked_col2im_forward(
    col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    im: Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Put columns (C, n) at n pixels of a map (1, C, H, W), which is written."""
    im[0][:, mask_h_idx, mask_w_idx] = col.to(im.dtype)
