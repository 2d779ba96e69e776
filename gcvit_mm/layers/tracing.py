"""What a forward pass may ask of sizes while a model is exported or compiled for any size."""

from typing import Sequence

import torch

from ..compat import is_compiling, provably_equal

__all__ = ['is_compiling', 'known_equal']


def known_equal(a: Sequence[int], b: Sequence[int]) -> bool:
    """Tell whether two sizes are equal for every image.

    While a model is exported or compiled for any size, sizes are symbols: asking ``a == b`` would
    tie the graph to the answer for one image. Then, this is ``False`` unless it can be proved.
    """
    if torch.jit.is_tracing():
        return False
    return provably_equal(a, b) if is_compiling() else tuple(a) == tuple(b)
