"""Stochastic depth that computes nothing for the images which go without a branch."""

from typing import Any, Callable

import torch
from mmcv.cnn.bricks import DropPath as MaskedDropPath
from torch import Tensor

from .tracing import is_compiling


class DropPath(MaskedDropPath):
    """Stochastic depth: each image of a batch goes without a branch with a probability.

    As a function of what a branch has computed, this is mmcv's. :meth:`add` computes the branch
    only for the images that keep it (DINOv2, arXiv 2304.07193, Section 5).

    Args:
        drop_prob: The probability.
    """

    def add(self, x: Tensor, branch: Callable[..., Tensor], *args: Any) -> Tensor:
        """``x + branch(x, *args)``; in training dropped for some images, scaled for the others.

        Who goes without is drawn on the CPU, so that nobody waits for a GPU. Graphs that are
        compiled, and tensors without values, compute the branch for all images.

        Args:
            x: Tensor (B, ...).
            branch: Function of tensors whose first axis is that of the images, of which it gets
                some: it must see each by itself (no batch norm).
            args: More for it; of tensors (B, ...) it gets the same images.

        Returns:
            Tensor of the shape of ``x``.
        """
        if not self.training or not self.drop_prob:
            return x + branch(x, *args)
        graph = is_compiling() or torch.jit.is_tracing() or x.is_meta
        drawn = None if graph else torch.rand(len(x), device='cpu')
        if type(drawn) is not Tensor:  # None, or a FakeTensor
            return x + self(branch(x, *args))
        kept = (drawn < 1 - self.drop_prob).nonzero().flatten()
        scale = 1 / (1 - self.drop_prob) if len(kept) else 0.0
        if len(kept) == len(x):
            return torch.add(x, branch(x, *args), alpha=scale)
        if not len(kept):  # one for nothing: DDP waits for gradients of all weights
            kept = kept.new_zeros(1)
        kept = kept.to(x.device, non_blocking=True)
        chosen = (t.index_select(0, kept) if isinstance(t, Tensor) else t for t in (x, *args))
        part = branch(*chosen)
        dtype = torch.promote_types(x.dtype, part.dtype)
        return x.to(dtype).index_add(0, kept, part.to(dtype), alpha=scale)
