"""What is computed again in the backward pass equals plain autograd, and is not kept."""

import weakref

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from gcvit_mm.compat import torch_before
from gcvit_mm.layers import Block, MBConv, WindowAttention, recompute
from gcvit_mm.layers.attention import attention
from gcvit_mm.layers.stage import run_block


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
        assert (b.float() - a).norm() < 0.02 * a.norm()  # torch 2.1 rounds single numbers by 0.2


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


# ---------------------------------------------------------------- norms and activations
def parts():
    """A block and an MB block with their inputs."""
    attn = WindowAttention(8, 2, (3, 3))
    block = Block(attn, 8, mlp_ratio=2.0, norm_cfg=dict(type='LN'), layer_scale=0.5)
    return {'block': (block, torch.randn(2, 5, 7, 8)), 'mb': (MBConv(8), torch.randn(2, 8, 5, 7))}


def gradients(module, x):
    """Those of the input and the weights."""
    x = x.clone().requires_grad_()
    module.zero_grad()
    module(x).square().sum().backward()
    return [x.grad, *(p.grad.clone() for p in module.parameters())]


def outputs_that_live(module, x):
    """Whether the output of the first GELU lives after the forward pass; the output of the pass."""
    seen = []
    act = module.mlp.act if isinstance(module, Block) else module.act
    handle = act.register_forward_hook(lambda m, args, out: seen.append(weakref.ref(out)))
    out = module(x.clone().requires_grad_())
    handle.remove()
    return seen[0]() is not None, out


@pytest.mark.parametrize('name', ['block', 'mb'])
def test_activations_are_computed_again(name, monkeypatch):
    """Gradients are equal to the bit; activations do not outlive the forward pass."""
    module, x = parts()[name]
    monkeypatch.setattr(recompute, 'SMALL', 2**20)
    want = gradients(module, x)
    assert outputs_that_live(module, x)[0]
    monkeypatch.setattr(recompute, 'SMALL', 0)
    for a, b in zip(gradients(module, x), want):
        torch.testing.assert_close(a, b, atol=0, rtol=0)
    assert not outputs_that_live(module, x)[0]


@pytest.mark.skipif(torch_before('2.1'), reason='torch 2.0 repeats the last product too')
@pytest.mark.parametrize('name', ['block', 'mb'])
def test_products_are_not_repeated(name, monkeypatch):
    """Of an MB block only the two of its gate, which are not of the map."""
    module, x = parts()[name]
    counts = []
    for small in (2**20, 0):
        monkeypatch.setattr(recompute, 'SMALL', small)
        with FlopCounterMode(display=False) as counter:
            gradients(module, x)
        counts.append(counter.get_total_flops())
    gate = 2 * (2 * x.shape[0] * 8 * 2) if name == 'mb' else 0
    assert counts[1] - counts[0] == gate


@pytest.mark.parametrize('case', ['no gradient', 'traced', 'compiled'])
def test_only_where_a_backward_pass_follows(case, monkeypatch):
    """Graphs that are exported or compiled hold no checkpoint."""
    monkeypatch.setattr(recompute.cp, 'checkpoint', lambda *a, **k: pytest.fail('a checkpoint'))
    module, x = parts()['block']
    if case == 'traced':
        torch.jit.trace(module, x, check_trace=False)
    elif case == 'compiled':
        torch.compile(module, backend='eager', fullgraph=True)(x)
    else:
        with torch.no_grad():
            module(x)


def test_blocks_that_are_recomputed_whole():
    """``with_cp`` around a block that computes its activations again."""
    module, x = parts()['block']
    want = gradients(module, x)
    x = x.clone().requires_grad_()
    module.zero_grad()
    run_block(module, True, x).square().sum().backward()
    for a, b in zip([x.grad, *(p.grad for p in module.parameters())], want):
        torch.testing.assert_close(a, b, atol=0, rtol=0)
