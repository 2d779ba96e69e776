"""What the backward pass computes again instead of keeping it."""

from typing import Any, Callable, Tuple

import torch
import torch.nn.functional as F
import torch.utils.checkpoint as cp
from torch import Tensor

from .tracing import is_compiling

CHUNK = 2**22  # attention weights that exist at a time
SMALL = 2**19  # smaller maps (elements) are kept: their memory is not worth the time


def keep_input(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Call a function of which the backward pass keeps ``x`` and computes the rest again.

    For a norm or an activation before a product: torch repeats what comes before the product, and
    stops there (torch 2.0 repeats the product too). A compiled graph chooses itself what to keep.

    Args:
        function: Function of a map, without random numbers.
        x: The map.
    """
    compiling = is_compiling() or torch.jit.is_tracing()
    if compiling or not torch.is_grad_enabled() or x.numel() < SMALL:
        return function(x)
    return cp.checkpoint(function, x, use_reentrant=False, preserve_rng_state=False)


class RecomputedAttention(torch.autograd.Function):
    """Attention with a bias that needs a gradient, without keeping the attention weights.

    On a CPU, torch's fused kernel cannot give that gradient and falls back to arithmetic that
    keeps several tensors of the size of all attention weights for the backward pass. Here the
    forward pass runs on the fused kernel, and the backward pass repeats the weights for chunks of
    the batch.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
        """Arguments as :func:`gcvit_mm.layers.attention.attention` has; bias (1, heads, N, M)."""
        # detached: torch leaves its fused kernel where a mask needs a gradient
        mask = bias.detach().expand(q.shape[0], -1, -1, -1)
        out = F.scaled_dot_product_attention(q, k, v, mask, scale=scale)
        ctx.save_for_backward(q, k, v, bias)
        ctx.scale = scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:  # type: ignore[override]
        """Gradients of queries, keys, values and bias, whose sum is in float32 at least."""
        q, k, v, bias = ctx.saved_tensors
        (_, heads, n, d), m = q.shape, k.shape[2]
        dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
        wide = torch.promote_types(q.dtype, torch.float32)
        dbias = torch.zeros_like(bias, dtype=wide)
        rows = min(q.shape[0], max(1, CHUNK // bias.numel()))
        # written anew for every chunk, so that they stay in the cache
        space = q.new_empty(3, rows * heads, n, m)
        for i in range(0, q.shape[0], rows):
            part = slice(i, i + rows)
            # (windows * heads, N or M, d) each, copied once
            qs, ks, vs, grads = (x[part].reshape(-1, x.shape[2], d) for x in (q, k, v, grad))
            qs = qs * ctx.scale
            logits, weights, dlogits = space[:, : len(qs)]
            torch.bmm(qs, ks.transpose(1, 2), out=logits).view(-1, heads, n, m).add_(bias)
            torch.softmax(logits, -1, out=weights)
            dv[part] = torch.bmm(weights.transpose(1, 2), grads).view(-1, heads, m, d)
            dweights = torch.bmm(grads, vs.transpose(1, 2), out=logits)
            # weights * (dweights - sum(weights * dweights)), in one pass
            torch.ops.aten._softmax_backward_data(
                dweights, weights, -1, q.dtype, grad_input=dlogits
            )
            # of a chunk in the type of the queries: sums of 16-bit types are float32 inside
            dbias += dlogits.view(-1, heads, n, m).sum(0)
            dq[part] = torch.bmm(dlogits, ks).mul_(ctx.scale).view(-1, heads, n, d)
            dk[part] = torch.bmm(dlogits.transpose(1, 2), qs).view(-1, heads, m, d)
        return dq, dk, dv, dbias.to(bias.dtype), None
