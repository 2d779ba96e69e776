"""Learned position embeddings that fit maps of any size."""

import math
from typing import Tuple

import torch
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from .fitting import Fitted
from .tracing import known_equal, resize_cubic


class PositionEmbedding(Fitted):
    """One learned vector for every token of a map, resized (bicubic) for maps of other sizes.

    A checkpoint made for another (square) map is resized while it is loaded.

    Args:
        embed_dims: Channels C.
        side: Side of the square map for which vectors are kept.
        num_extra: Tokens that come before those of the map, such as a class token.
    """

    def __init__(self, embed_dims: int, side: int, num_extra: int = 0) -> None:
        super().__init__()
        self.side = side
        self.num_extra = num_extra
        self.weight = nn.Parameter(torch.empty(1, num_extra + side * side, embed_dims))
        trunc_normal_(self.weight, std=0.02)

    def forward(self, size: Tuple[int, int]) -> Tensor:
        """Return the embeddings of a map of ``size``: (1, num_extra + H * W, C)."""
        return self._resize(self.weight, size)

    def _resize(self, weight: Tensor, size: Tuple[int, int]) -> Tensor:
        side = math.isqrt(weight.shape[1] - self.num_extra)
        if known_equal(size, (side, side)):
            return weight
        extra, grid = weight.split([self.num_extra, side * side], dim=1)
        grid = grid.transpose(1, 2).reshape(1, -1, side, side)
        grid = resize_cubic(grid, size)
        return torch.cat([extra, grid.flatten(2).transpose(1, 2)], 1)

    def fit(self, stored: Tensor) -> Tensor:
        """Resize stored embeddings to this module; return them as they are if they cannot be."""
        if stored.shape == self.weight.shape or stored.ndim != 3:
            return stored
        if stored.shape[::2] != self.weight.shape[::2]:
            return stored
        tokens = stored.shape[1] - self.num_extra
        if tokens < 1 or math.isqrt(tokens) ** 2 != tokens:
            return stored
        return self._resize(stored.float(), (self.side, self.side)).to(stored.dtype)

    def fit_note(self, key: str, stored: Tensor) -> str:
        """Say what :meth:`fit` does."""
        return 'position embeddings resized'
