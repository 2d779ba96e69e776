"""What a forward pass may ask of sizes while a model is exported or compiled for any size."""

from typing import Any, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..compat import is_compiling, provably_equal

__all__ = ['is_compiling', 'known_equal', 'resize_cubic']


def known_equal(a: Sequence[int], b: Sequence[int]) -> bool:
    """Tell whether two sizes are equal for every image.

    While a model is exported or compiled for any size, sizes are symbols: asking ``a == b`` would
    tie the graph to the answer for one image. Then, this is ``False`` unless it can be proved.
    """
    if torch.jit.is_tracing():
        return False
    return provably_equal(a, b) if is_compiling() else tuple(a) == tuple(b)


def resize_cubic(x: Tensor, size: Sequence[Any]) -> Tensor:
    """Resize maps (B, C, H, W) to a size, bicubic.

    In a trace as two products, with a matrix for each side: TensorRT documents no cubic Resize.
    """
    if not torch.jit.is_tracing():
        return F.interpolate(x, tuple(size), mode='bicubic', align_corners=False)
    rows = _cubic(x.shape[2], size[0], x)
    return torch.matmul(torch.matmul(rows, x), _cubic(x.shape[3], size[1], x).t())


def _cubic(side: Any, bins: Any, like: Tensor) -> Tensor:
    """Matrix (bins, side) of Keys' cubic convolution with a = -0.75, borders repeated."""
    cells = torch.arange(side, device=like.device)
    place = (torch.arange(bins, device=like.device).to(like) + 0.5) * (side / bins) - 0.5
    first = place.floor()
    matrix = torch.zeros_like(place)[:, None] * cells.to(like)
    for i in (-1, 0, 1, 2):
        d = (place - first - i).abs()
        near = (1.25 * d - 2.25) * d * d + 1
        far = ((-0.75 * d + 3.75) * d - 6) * d + 3
        weight = torch.where(d <= 1, near, far)
        hit = (first + i).clamp(min=0).minimum(cells.to(like).max())[:, None] == cells.to(like)
        matrix = matrix + hit.to(like) * weight[:, None]
    return matrix
