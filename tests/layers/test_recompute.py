"""Attention that computes its weights again in the backward pass equals plain autograd."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from gcvit_mm.layers import recompute
from gcvit_mm.layers.attention import attention


def inputs(dtype, rows=7, heads=2, tokens=9, keys=5, dims=8):
    """Queries, keys, values, and a bias that is shared by the rows."""
    shapes = [(rows, heads, n, dims) for n in (tokens, keys, keys)] + [(1, heads, tokens, keys)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize('chunk', [1, 300, 10**9], ids=['row by row', 'three rows', 'at once'])
@pytest.mark.parametrize('scale', [None, 0.5])
def test_equals_autograd(chunk, scale, monkeypatch):
    """Output and all four gradients, whatever the chunks (the last one may be smaller)."""
    monkeypatch.setattr(recompute, 'CHUNK', chunk)
    q, k, v, bias = inputs(torch.float64)
    out = attention(q, k, v, bias, scale)
    assert 'RecomputedAttention' in type(out.grad_fn).__name__
    logits = q @ k.transpose(-2, -1) * (8**-0.5 if scale is None else scale) + bias
    want = logits.softmax(-1) @ v
    torch.testing.assert_close(out, want, atol=1e-12, rtol=0)
    grad = torch.randn_like(out)
    for a, b in zip(
        torch.autograd.grad(out, (q, k, v, bias), grad),
        torch.autograd.grad(want, (q, k, v, bias), grad),
    ):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_half_precision():
    """bfloat16 gradients are those of float32 up to rounding, in the dtype of their tensors."""
    exact = inputs(torch.float32)
    rounded = [x.detach().bfloat16().requires_grad_() for x in exact]
    grads = []
    for tensors in (exact, rounded):
        out = attention(*tensors)
        grads.append(torch.autograd.grad(out.float().square().sum(), tensors))
    for a, b in zip(*grads):
        assert b.dtype is torch.bfloat16
        torch.testing.assert_close(b.float(), a, atol=0.05, rtol=0.1)


@pytest.mark.parametrize(
    'case', ['no gradient', 'bias of each row', 'dropout', 'frozen bias'], ids=str
)
def test_only_where_it_saves_memory(case):
    """Everything else goes straight to torch's call."""
    q, k, v, bias = inputs(torch.float32)
    options = dict(dropout=0.1) if case == 'dropout' else {}
    if case == 'bias of each row':
        bias = bias.expand(7, -1, -1, -1)
    if case == 'frozen bias':
        bias = bias.detach()
    with torch.set_grad_enabled(case != 'no gradient'):
        out = attention(q, k, v, bias, **options)
    assert 'RecomputedAttention' not in type(out.grad_fn).__name__


def test_attention_weights_are_not_kept():
    """Neither pass allocates as much as all attention weights take."""
    q, k, v, bias = inputs(torch.float32, rows=64, tokens=196, keys=196, dims=16)
    weights = 64 * bias.numel() * 4

    def peak(function):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
            result = function()
        sizes, used, most = [], 0, 0
        start = 'start_ns' if hasattr(torch._C._autograd._KinetoEvent, 'start_ns') else 'start_us'
        events = trace.profiler.kineto_results.events()
        for event in sorted(events, key=lambda e: getattr(e, start)()):
            if event.name() == '[memory]':
                sizes.append(event.nbytes())
        for size in sizes:
            used += size
            most = max(most, used)
        return result, most

    recompute_chunk, recompute.CHUNK = recompute.CHUNK, bias.numel()
    try:
        _, plain = peak(lambda: attention(q, k, v, bias.detach()))
        out, forward = peak(lambda: attention(q, k, v, bias))
        _, backward = peak(lambda: out.sum().backward())
    finally:
        recompute.CHUNK = recompute_chunk
    # torch 2.1 has no fused kernel for a mask on the CPU: there, no more than without a gradient
    assert 0 < forward < max(weights / 4, 1.1 * plain)
    assert 0 < backward < weights / 2
