"""Backbones through torch.compile: what eager ones give, and few graphs."""

import copy

import pytest
import torch

from gcvit_mm import GCViT
from support.families import FAMILIES, PARTS, shallow


@pytest.fixture
def counters():
    """What torch counts while it compiles, from zero."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    return counters


def compare(compiled, model, image):
    """Equal maps."""
    for found, wanted in zip(compiled(image), model(image)):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('family', FAMILIES)
def test_three_sizes_recompile_once_at_most(family, counters):
    """compile=True serves sizes that change; weights keep their names."""
    part = PARTS.get(family, {})
    model = shallow(family, **part).eval()
    compiled = shallow(family, compile=dict(backend='eager'), **part).eval()
    compiled.load_state_dict(model.state_dict())
    with torch.no_grad():
        for height, width in [(320, 480), (333, 517), (512, 352)]:
            compare(compiled, model, torch.randn(2, 3, height, width))
    assert 1 <= counters['stats']['unique_graphs'] <= 2
    assert not counters['graph_break']


@pytest.mark.parametrize('family', ['gcvit', 'gg_deit'])
def test_one_graph_for_all_sizes(family, counters):
    """A model compiled for dynamic sizes serves padded and unpadded maps with one graph."""
    from torch.fx.experimental import _config

    if not hasattr(_config, 'backed_size_oblivious'):
        pytest.skip('this torch takes sides of 1 for constants')
    model = shallow(family).eval()
    compiled = torch.compile(copy.deepcopy(model), dynamic=True, backend='eager')
    with torch.no_grad(), _config.patch(backed_size_oblivious=True):
        for height, width in [(97, 131), (96, 128), (224, 160)]:
            image = torch.randn(2, 3, height, width)
            compare(compiled, model, image)
    assert counters['stats']['unique_graphs'] == 1
    assert not counters['graph_break']


def test_training(counters):
    """Gradients are those of the eager model, with blocks that are recomputed."""
    options = dict(with_cp=True, out_indices=(0,))
    model = shallow('gcvit', **options)
    compiled = shallow('gcvit', compile=dict(backend='aot_eager', dynamic=False), **options)
    compiled.load_state_dict(model.state_dict())
    image = torch.randn(2, 3, 97, 131)
    for one in (model, compiled):
        sum(out.square().mean() for out in one(image)).backward()
    assert counters['stats']['unique_graphs'] >= 1
    for (name, found), wanted in zip(compiled.named_parameters(), model.parameters()):
        torch.testing.assert_close(
            found.grad, wanted.grad, atol=1e-5, rtol=1e-3, msg=lambda text, n=name: f'{n}: {text}'
        )


def test_inductor_trains_a_stem(counters):
    """Generated code, sizes as symbols; with torch's own layouts of convolutions it fails."""
    stem = GCViT('xxtiny').patch_embed.train()
    compiled = torch.compile(copy.deepcopy(stem), **GCViT.compile_defaults)
    # without vector instructions, which are looked for with a dozen small programs
    with torch._inductor.config.patch({'cpp.vec_isa_ok': False}):
        for height, width in [(97, 131), (66, 95)]:
            image = torch.randn(2, 3, height, width)
            found, wanted = compiled(image), stem(image)
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
        for out in (found, wanted):
            out.square().mean().backward()
    for a, b in zip(compiled.parameters(), stem.parameters()):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-3)
    assert 1 <= counters['stats']['unique_graphs'] <= 2


def test_copies_run_eagerly(counters):
    """A copy, as EMA makes it, runs its own weights."""
    model = shallow('gg_deit', compile=dict(backend='eager', dynamic=False)).eval()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.norm0.bias.fill_(7.0)
        image = torch.randn(1, 3, 64, 64)
        assert twin(image)[0].mean() > model(image)[0].mean() + 5
    assert counters['stats']['unique_graphs'] == 1


def test_old_torch_is_refused(monkeypatch):
    """torch 2.1 cannot compile these models; it says so before it tries."""
    monkeypatch.setattr(torch, '__version__', '2.1.2+cu121')
    with pytest.raises(ValueError, match='compile needs torch 2.2 or later'):
        GCViT('xxtiny', compile=True)


def test_options_are_passed_on():
    """Unknown options are torch's errors, not ignored."""
    with pytest.raises((TypeError, RuntimeError)):
        GCViT('xxtiny', compile=dict(no_such_option=1))
