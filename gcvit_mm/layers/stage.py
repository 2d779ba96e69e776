"""Stages: blocks one after another, recomputed in the backward pass where memory is short."""

from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, ContextManager, Iterator, Optional, Sequence, Tuple

import torch
import torch.utils.checkpoint as cp
from torch import Tensor, nn

from .tracing import is_compiling


class Stage(nn.Module):
    """Blocks of one resolution, and what leads to the next one.

    Args:
        blocks: The blocks, each from a map (B, H, W, C) to one of the same shape.
        downsample: Follows the blocks; ``None`` in the last stage.
        with_cp: Recompute every block in the backward pass.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        downsample: Optional[nn.Module] = None,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample
        self.with_cp = with_cp

    def forward(self, x: Tensor, *args: Any) -> Tuple[Tensor, Tensor]:
        """Map (B, H, W, C), and what else the blocks take -> the map after the blocks, and the
        input of the next stage."""
        for j, block in enumerate(self.blocks):
            x = self.after_block(j, run_block(block, self.with_cp, x, *args))
        return x, x if self.downsample is None else self.downsample(x)

    def after_block(self, index: int, x: Tensor) -> Tensor:
        """What follows block ``index``, on its map; nothing, unless a family says otherwise."""
        return x


def run_block(block: nn.Module, with_cp: bool, *args: Any) -> Tensor:
    """Call a block, recomputing it in the backward pass if ``with_cp``.

    A block that trains is recomputed even where its input needs no gradient (after a frozen
    stage); a frozen block behind no gradient is not.
    """
    if with_cp and torch.is_grad_enabled():
        tensors = [a for a in args if isinstance(a, Tensor)]
        if any(t.requires_grad for t in (*tensors, *block.parameters())):
            options: dict = dict(context_fn=partial(_forward_and_recompute, block))
            if is_compiling():  # changes statistics once by itself
                options = {}
            return cp.checkpoint(block, *args, use_reentrant=False, **options)
    return block(*args)


def _forward_and_recompute(block: nn.Module) -> Tuple[ContextManager, ContextManager]:
    return nullcontext(), _same_statistics(block)


@contextmanager
def _same_statistics(block: nn.Module) -> Iterator[None]:
    """Keep batch norms from counting a batch twice."""
    kept = [
        (m, m.momentum, m.num_batches_tracked.clone())
        for m in block.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.num_batches_tracked is not None
    ]
    for norm, _, _ in kept:
        norm.momentum = 0.0
    try:
        yield  # torch leaves by an exception once it has what it needs
    finally:
        for norm, momentum, count in kept:
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)  # type: ignore[union-attr]
