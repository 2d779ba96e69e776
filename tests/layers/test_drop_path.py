"""Stochastic depth: what is dropped is not computed, and all else is as if it were."""

from contextlib import nullcontext

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gcvit_mm.layers import Block, DropPath, WindowAttention, run_block
from support.devices import DEVICES

C = 8


def block(drop_prob, own_query=True, layer_scale=None):
    """A block in float64 whose branches are dropped with a probability."""
    attn = WindowAttention(C, 2, (2, 3), own_query=own_query)
    made = Block(attn, C, 2.0, dict(type='LN'), drop_prob, layer_scale=layer_scale)
    return made.double().train()


def gradients(outputs, *tensors):
    """Gradients of a sum with different weights."""
    weights = torch.linspace(-1, 2, outputs.numel()).to(outputs).view(outputs.shape)
    return torch.autograd.grad((outputs * weights).sum(), tensors)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('images', [1, 2, 5])
@pytest.mark.parametrize('own_query', [True, False], ids=['own query', 'global query'])
def test_equals_what_is_computed_and_masked(images, own_query, device):
    """Maps and all gradients, whoever goes without a branch."""
    options = dict(dtype=torch.float64, device=device, requires_grad=True)
    module = block(0.5, own_query, layer_scale=0.5).to(device)
    x = torch.randn(images, 4, 5, C, **options)
    query = torch.randn(images, 2, 6, C // 2, **options)
    args, inputs = ((), (x,)) if own_query else ((query,), (x, query))
    for seed in range(6):
        torch.manual_seed(seed)
        found = module(x, *args)
        torch.manual_seed(seed)
        kept = [(torch.rand(images) < 0.5).to(device) for _ in range(2)]
        factors = [2 * mask[:, None, None, None] for mask in kept]
        want = x + factors[0] * module.gamma1 * module.attn(module.norm1(x), *args)
        want = want + factors[1] * module.gamma2 * module.mlp(module.norm2(want))
        tensors = (*inputs, *module.parameters())
        torch.testing.assert_close(found, want, rtol=0, atol=1e-12)
        for a, b in zip(gradients(found, *tensors), gradients(want, *tensors)):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_computes_only_what_is_kept():
    """A branch gets the images that keep it, and its other arguments for the same ones."""
    drop_path, x = DropPath(0.5).train(), torch.arange(64.0)[:, None]
    seen = []

    def branch(x, other, size):
        assert torch.equal(other, 2 * x) and size == (3, 4)
        seen.extend(x.flatten().tolist())
        return torch.ones_like(x)

    added = (drop_path.add(x, branch, 2 * x, (3, 4)) - x).flatten()
    assert seen == added.nonzero().flatten().tolist() and 16 < len(seen) < 48
    assert set(added.tolist()) == {0.0, 2.0}
    seen.clear()
    assert torch.equal(drop_path.eval().add(x, branch, 2 * x, (3, 4)), x + 1) and len(seen) == 64


@pytest.mark.parametrize('drop_prob', [1 - 1e-9, 1.0])
def test_weights_that_nobody_needed_have_gradients_of_zero(drop_prob):
    """DDP waits for the gradients of all weights, and an optimizer decays those that have one."""
    module = block(drop_prob)
    x = torch.randn(2, 4, 5, C, dtype=torch.float64, requires_grad=True)
    out = module(x)
    assert torch.equal(out, x)
    out.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in module.parameters())


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_keeps_the_mean(dtype):
    """Kept branches are scaled up, in 16 bits too (numbers drawn in those are not even)."""
    x = torch.zeros(40000, 1, dtype=dtype)
    added = DropPath(0.3).train().add(x, torch.ones_like).double()
    assert added.mean().item() == pytest.approx(1, abs=0.013)  # four deviations
    assert (added != 0).double().mean().item() == pytest.approx(0.7, abs=0.0092)


@pytest.mark.parametrize('drop_prob', [0.0, 1e-9, 0.5, 1.0])
def test_type_does_not_depend_on_luck(drop_prob):
    """A stream in float32 stays so beside branches in 16 bits, and the other way round."""
    drop_path = DropPath(drop_prob).train()
    for x, branch in ((torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)):
        out = drop_path.add(torch.ones(8, 3, dtype=x), lambda t, to=branch: t.to(to))
        assert out.dtype is torch.float32


def test_draws_again_when_recomputed():
    """``with_cp`` repeats the pass with the same images."""
    module = block(0.5)
    x = torch.randn(6, 4, 5, C, dtype=torch.float64, requires_grad=True)
    found = []
    for with_cp in (False, True):
        torch.manual_seed(1)
        found.append(gradients(run_block(module, with_cp, x), x, *module.parameters()))
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_compiled_graphs_compute_for_all():
    """Their shapes do not depend on what is drawn: all is computed, and multiplied."""
    module = DropPath(0.5).train()
    add = torch.compile(lambda x: module.add(x, torch.ones_like), backend='eager', fullgraph=True)
    added = add(torch.zeros(64, 3))
    assert set(added.flatten().tolist()) == {0.0, 2.0}
    assert torch.equal(added.amin(1), added.amax(1))


@pytest.mark.parametrize('where', ['fake', 'meta'])
def test_nothing_is_drawn_for_tensors_without_values(where):
    """What runs without memory computes for all images, as the most that can happen."""
    sizes = []

    def branch(x):
        sizes.append(len(x))
        return torch.ones_like(x)

    with FakeTensorMode() if where == 'fake' else nullcontext():
        device = 'cpu' if where == 'fake' else 'meta'
        DropPath(0.5).train().add(torch.zeros(64, 3, device=device), branch)
    assert sizes == [64]
