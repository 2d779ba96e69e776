"""Focal losses and multi-scale deformable attention against their definitions."""

import sys

import pytest
import torch

from gcvit_mm.ops import deform_attn
from support import ops_reference as reference


@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
@pytest.mark.parametrize('weighted', [True, False])
@pytest.mark.parametrize('gamma, alpha', [(2.0, 0.25), (0.0, 0.5), (1.5, 0.9), (0.5, 0.25)])
@pytest.mark.parametrize('kind', ['sigmoid', 'softmax'])
def test_focal_loss(ours, kind, gamma, alpha, weighted, reduction):
    """Values and gradients, in float64; a class that is none is background, or ignored."""
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 3, 2, 4 if kind == 'sigmoid' else 1, -1, 1])
    weight = torch.rand(4, dtype=torch.float64) if weighted else None
    y = getattr(ours, f'{kind}_focal_loss')(x, target, gamma, alpha, weight, reduction)
    wanted = getattr(reference, f'{kind}_focal_loss')(x, target, gamma, alpha, weight)
    if reduction == 'mean':
        wanted = wanted.sum() / len(x)
    elif reduction == 'sum':
        wanted = wanted.sum()
    torch.testing.assert_close(y, wanted)
    if reduction == 'none' and kind == 'softmax':
        return  # mmcv multiplies (N, C) by (N,) in its gradient, and fails
    torch.testing.assert_close(
        torch.autograd.grad(y.sum() * 3, x), torch.autograd.grad(wanted.sum() * 3, x)
    )


@pytest.mark.parametrize('kind', ['sigmoid', 'softmax'])
def test_focal_loss_of_extremes(ours, kind):
    """Finite where a probability is 0 or 1."""
    x = torch.tensor([[100, -100.0], [-100, 100], [1e4, -1e4]], requires_grad=True)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        leaf = x.detach().to(dtype).requires_grad_()
        y = getattr(ours, f'{kind}_focal_loss')(leaf, torch.tensor([0, 0, 1]), 2.0, 0.25)
        y.backward()
        assert y.isfinite() and leaf.grad.isfinite().all() and y.dtype == dtype


@pytest.mark.parametrize('kind', ['sigmoid', 'softmax'])
def test_focal_loss_of_nothing(ours, kind):
    """No sample, no loss."""
    x = torch.zeros(0, 4, requires_grad=True)
    y = getattr(ours, f'{kind}_focal_loss')(x, torch.zeros(0).long(), 2.0, 0.25, None, 'sum')
    y.backward()
    assert y == 0 and x.grad.shape == (0, 4)


@pytest.mark.parametrize('kind', ['sigmoid', 'softmax'])
def test_focal_loss_bfloat16(ours, kind):
    """Computed in float32 from rounded logits; views with other strides."""
    x = torch.randn(4, 50).t().to(torch.bfloat16).requires_grad_()
    target = torch.randint(0, 4, (50,))
    y = getattr(ours, f'{kind}_focal_loss')(x, target, 2.0, 0.25, None, 'sum')
    leaf = x.detach().float().requires_grad_()
    wanted = getattr(ours, f'{kind}_focal_loss')(leaf, target, 2.0, 0.25, None, 'sum')
    torch.testing.assert_close(y.float(), wanted, rtol=0.01, atol=0.01)
    (grad,) = torch.autograd.grad(y, x)
    (wanted,) = torch.autograd.grad(wanted, leaf)
    torch.testing.assert_close(grad.float(), wanted, rtol=0.01, atol=1e-3)


SIZES = [(3, 4), (2, 2), (1, 5)]


def attention(b=2, queries=3, heads=2, points=2, d=3, dtype=torch.float64, spread=1.4):
    """Leaves of an attention: values, locations (some outside of the maps), weights."""
    n = sum(h * w for h, w in SIZES)
    locations = torch.rand(b, queries, heads, len(SIZES), points, 2, dtype=dtype)
    leaves = (
        torch.randn(b, n, heads, d, dtype=dtype),
        (locations - 0.5) * spread + 0.5,
        torch.rand(b, queries, heads, len(SIZES), points, dtype=dtype),
    )
    return [t.requires_grad_() for t in leaves]


def run_kernel(ours, value, locations, weights):
    """mmcv's function, which is for GPUs, with our operators."""
    shapes = torch.tensor(SIZES)
    starts = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])
    function = sys.modules['mmcv.ops.multi_scale_deform_attn'].MultiScaleDeformableAttnFunction
    return function.apply(value, shapes, starts, locations, weights, 64)


def run_module(ours, value, locations, weights):
    """What mmcv's layer runs on a CPU."""
    module = sys.modules['mmcv.ops.multi_scale_deform_attn']
    return module.multi_scale_deformable_attn_pytorch(
        value, torch.tensor(SIZES), locations, weights
    )


@pytest.mark.parametrize('how', [run_kernel, run_module])
@pytest.mark.parametrize('spread', [0.9, 1.6, 40])
def test_attention_is_the_definition(ours, spread, how):
    """Values and all gradients, in float64; points inside, at the border, far away."""
    leaves = attention(spread=spread)
    y = how(ours, *leaves)
    wanted = reference.deform_attention(leaves[0], SIZES, *leaves[1:])
    wanted = wanted + 0 * sum(leaf.sum() for leaf in leaves)  # all have a gradient
    torch.testing.assert_close(y, wanted)
    weights = torch.randn_like(y)
    torch.testing.assert_close(
        torch.autograd.grad(y, leaves, weights), torch.autograd.grad(wanted, leaves, weights)
    )


@pytest.mark.parametrize('place', [1e30, float('inf'), -float('inf'), float('nan')])
def test_attention_far_away(ours, place):
    """A point that is nowhere gives nothing, and no NaN."""
    value, locations, weights = attention(1, 1, 1, 1, 3)
    with torch.no_grad():
        locations.fill_(place)
    y = run_module(ours, value, locations, weights)
    grads = torch.autograd.grad(y.sum(), (value, weights))
    assert all(t.abs().sum() == 0 for t in (y, *grads))


def test_attention_on_pixels(ours):
    """At the centre of a pixel it is that pixel."""
    value, locations, weights = attention(1, 1, 1, 1, 3)
    locations = torch.zeros_like(locations)
    for level, (h, w) in enumerate(SIZES):
        locations[..., level, :, :] = torch.tensor([0.5 / w, 0.5 / h], dtype=torch.float64)
    y = run_module(ours, value, locations, torch.ones_like(weights))
    starts = [0, 12, 16]
    torch.testing.assert_close(y[0, 0], value[0, starts, 0].sum(0))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('how', [run_kernel, run_module])
def test_attention_16_bit(ours, how, dtype):
    """Only values and results are rounded, in the layer's form also with float32 points."""
    value, locations, weights = attention(dtype=torch.float32)
    if how is run_kernel:  # mmcv's function rounds points to the type of the values
        locations = locations.to(dtype).float()
        weights = weights.to(dtype).float()
    half = value.detach().to(dtype).requires_grad_()
    y = how(ours, half, locations, weights)
    wanted = how(ours, half.float(), locations, weights)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), wanted, rtol=0.02, atol=0.02)
    y.float().sum().backward()
    assert half.grad.isfinite().all()


@pytest.mark.parametrize('b, queries', [(0, 3), (2, 0)])
def test_attention_of_nothing(ours, b, queries):
    """No image, or no query."""
    leaves = attention(b, queries)
    y = run_module(ours, *leaves)
    assert y.shape == (b, queries, 6)
    y.sum().backward()
    assert all(leaf.grad is None or leaf.grad.abs().sum() == 0 for leaf in leaves)


def test_layer(ours):
    """mmcv's layer, under autocast and without."""
    layer = ours.MultiScaleDeformableAttention(8, 2, 3, 2, batch_first=True).eval()
    torch.nn.init.normal_(layer.sampling_offsets.weight, std=0.1)
    shapes = torch.tensor(SIZES)
    given = dict(
        value=torch.randn(2, 21, 8),
        reference_points=torch.rand(2, 4, 3, 2),
        spatial_shapes=shapes,
        level_start_index=torch.tensor([0, 12, 16]),
    )
    query = torch.randn(2, 4, 8, requires_grad=True)
    wanted = layer(query, **given)
    with torch.autocast('cpu', torch.bfloat16):
        y = layer(query, **given)
    torch.testing.assert_close(y.float(), wanted, rtol=0.05, atol=0.05)
    y.float().sum().backward()
    assert query.grad.isfinite().all()


def test_forms_of_attention_agree():
    """Row by row, and level by level; the latter is what is traced."""
    traced = torch.jit.trace(
        lambda value, *rest: deform_attn.sample(value, SIZES, *rest),
        tuple(leaf.detach() for leaf in attention()),
    )
    assert 'grid_sampler' in str(traced.graph)
    leaves = attention(spread=1.6)
    results = []
    for form in (deform_attn.sample, deform_attn.by_grid_sample):
        y = form(leaves[0], SIZES, *leaves[1:])
        results.append([y, *torch.autograd.grad(y.sin().sum(), leaves)])
    torch.testing.assert_close(*results)
