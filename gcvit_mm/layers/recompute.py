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
        ctx.save_for_backward(q, k, v, bias, out)
        ctx.scale = scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:  # type: ignore[override]
        """Gradients of queries, keys, values and bias."""
        q, k, v, bias, out = ctx.saved_tensors
        dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
        wide = torch.promote_types(q.dtype, torch.float32)
        dbias = torch.zeros_like(bias, dtype=wide)
        rows = max(1, CHUNK // bias.numel())
        for i in range(0, q.shape[0], rows):
            part = slice(i, i + rows)
            weights = torch.matmul(q[part] * ctx.scale, k[part].transpose(-2, -1))
            weights = weights.add_(bias).softmax(-1, dtype=wide)
            dv[part] = torch.matmul(weights.transpose(-2, -1).to(q.dtype), grad[part])
            # softmax: dlogits = weights * (dweights - sum(weights * dweights)), and that sum is
            # also the one of grad * out
            inner = (grad[part].to(wide) * out[part].to(wide)).sum(-1, keepdim=True)
            dlogits = torch.matmul(grad[part], v[part].transpose(-2, -1)).to(wide)
            dlogits = dlogits.sub_(inner).mul_(weights)
            dbias += dlogits.sum(0, keepdim=True)
            dlogits = dlogits.to(q.dtype)
            dq[part] = torch.matmul(dlogits, k[part]).mul_(ctx.scale)
            dk[part] = torch.matmul(dlogits.transpose(-2, -1), q[part]).mul_(ctx.scale)
        return dq, dk, dv, dbias.to(bias.dtype), None
