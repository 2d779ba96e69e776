"""Attention whose weights are computed again in the backward pass, a few windows at a time."""

from typing import Any, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 2**22  # attention weights that exist at a time


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
        rows = max(1, CHUNK // bias.numel())
        for i in range(0, q.shape[0], rows):
            part = slice(i, i + rows)
            # (windows * heads, N or M, d) each, copied once
            qs, ks, vs, grads = (x[part].reshape(-1, x.shape[2], d) for x in (q, k, v, grad))
            qs = qs * ctx.scale
            logits = torch.bmm(qs, ks.transpose(1, 2)).view(-1, heads, n, m).add_(bias)
            weights = logits.softmax(-1).view(-1, n, m)
            dv[part] = torch.bmm(weights.transpose(1, 2), grads).view(-1, heads, m, d)
            dweights = torch.bmm(grads, vs.transpose(1, 2))
            # weights * (dweights - sum(weights * dweights)), in one pass
            dlogits = torch.ops.aten._softmax_backward_data(dweights, weights, -1, q.dtype)
            dbias += dlogits.view(-1, heads, n, m).sum(0, keepdim=True, dtype=wide)
            dq[part] = torch.bmm(dlogits, ks).mul_(ctx.scale).view(-1, heads, n, d)
            dk[part] = torch.bmm(dlogits.transpose(1, 2), qs).view(-1, heads, m, d)
        return dq, dk, dv, dbias.to(bias.dtype), None
