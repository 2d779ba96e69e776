"""Learned relative position bias, resized for other windows when it is loaded."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from .fitting import Fitted
from .window import Size


def relative_position_index(size: Size) -> Tensor:
    """Row of the bias table for every pair of tokens of a window.

    Query (yq, xq) and key (yk, xk) share row
    ``(yq - yk + h - 1) * (2w - 1) + (xq - xk + w - 1)`` of a ((2h-1)(2w-1), heads) table.

    Args:
        size: Window ``(h, w)`` in tokens.

    Returns:
        Int64 tensor (h * w, h * w), first axis the query.
    """
    h, w = size
    ys = torch.arange(h).repeat_interleave(w)
    xs = torch.arange(w).repeat(h)
    dy = ys[:, None] - ys[None, :] + h - 1
    dx = xs[:, None] - xs[None, :] + w - 1
    return dy * (2 * w - 1) + dx


def resize_bias_table(table: Tensor, size: Size, num_heads: int) -> Tensor:
    """Resize a relative position bias table to another window.

    The table is read as a square image per head and resized in float32, bicubic, without
    aligned corners or antialiasing.

    Args:
        table: Stored table (S * S, heads), S odd (S = 2w - 1 for a w x w window).
        size: Window ``(h, w)`` wanted.
        num_heads: Heads wanted.

    Returns:
        Contiguous table ((2h - 1)(2w - 1), heads) in the dtype of ``table``.

    Raises:
        ValueError: If the table is not that of a square window or has other heads.
    """
    side = math.isqrt(table.shape[0]) if table.ndim == 2 else 0
    if not side or side * side != table.shape[0] or side % 2 == 0:
        raise ValueError(f'a table of shape {tuple(table.shape)} belongs to no square window')
    if table.shape[1] != num_heads:
        raise ValueError(f'the table has {table.shape[1]} heads, the model {num_heads}')
    image = table.detach().float().t().reshape(1, num_heads, side, side)
    image = F.interpolate(
        image, (2 * size[0] - 1, 2 * size[1] - 1), mode='bicubic', align_corners=False
    )
    return image.flatten(2)[0].t().contiguous().to(table.dtype)


class RelativePositionBias(Fitted):
    """Learned bias on attention logits, by the offset between query and key.

    The table is created at the window of the model. A checkpoint with a table for another
    (square) window is resized while it is loaded, see :func:`resize_bias_table`.

    Args:
        window_size: Window ``(height, width)`` in tokens.
        num_heads: Number of attention heads.
    """

    fitted = 'relative_position_bias_table'
    index: Tensor

    def __init__(self, window_size: Size, num_heads: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.num_heads = num_heads
        self.num_tokens = window_size[0] * window_size[1]
        rows = (2 * window_size[0] - 1) * (2 * window_size[1] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.empty(rows, num_heads))
        trunc_normal_(self.relative_position_bias_table, std=0.02)
        # Fused CUDA attention wants rows of a multiple of 8 elements in half precision. The
        # gather therefore makes rows that long, and forward() returns a view without the rest.
        index = F.pad(relative_position_index(window_size), (0, -self.num_tokens % 8))
        self.register_buffer('index', index, persistent=False)

    def forward(self, dtype: torch.dtype) -> Tensor:
        """Gather the bias.

        Args:
            dtype: Of the result, that of the queries. The gather itself keeps the dtype of the
                table, so that its gradient is summed in that.

        Returns:
            Tensor (1, heads, N, N), N the number of tokens of a window.
        """
        rows, index = self.relative_position_bias_table, self.index.flatten()
        # one head is viewed, for DDP wants a gradient with the strides of the table
        table = rows.view(1, -1) if self.num_heads == 1 else rows.t()
        if table.requires_grad and torch.is_grad_enabled():  # its gradient is the faster one
            bias = table.gather(1, index.expand(self.num_heads, -1))
        else:  # what exporters know, without an index for every head
            bias = table.index_select(1, index)
        bias = bias.to(dtype)
        return bias.view(1, self.num_heads, self.num_tokens, -1)[..., : self.num_tokens]

    def fit(self, stored: Tensor) -> Tensor:
        """Resize a stored table to this module; return it as it is if it fits or cannot."""
        if stored.shape == self.relative_position_bias_table.shape:
            return stored
        try:
            return resize_bias_table(stored, self.window_size, self.num_heads)
        except ValueError:
            return stored

    def fit_note(self, key: str, stored: Tensor) -> str:
        """Say what :meth:`fit` does."""
        return 'bias tables resized to the windows of the model'

    def extra_repr(self) -> str:
        """Show window and heads in ``print(model)``."""
        return f'window_size={self.window_size}, num_heads={self.num_heads}'
