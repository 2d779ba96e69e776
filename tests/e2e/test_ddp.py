"""Backbones in torch's DistributedDataParallel: one process is enough to see how it takes them."""

import re
import warnings

import pytest
import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from gcvit_mm import GCViT, GGDeiT, GGTransformer, GPViT, GPViTAdapter, ScalableViT
from support.families import FAMILIES, PARTS, shallow

GC_ARCH = dict(
    embed_dims=16,
    depths=(1, 2, 1, 1),
    num_heads=(1, 2, 4, 8),
    mlp_ratio=2.0,
    layer_scale=1e-5,
    window_size=7,
    drop_path_rate=0.0,
)
MODELS = {
    'gcvit': lambda **k: GCViT(GC_ARCH, **k),
    'gcvit patches': lambda **k: GCViT(GC_ARCH, overlap_patches=False, in_channels=4, **k),
    'gg': lambda **k: GGTransformer(out_indices=(0, 1), **k),
    'ggdeit': lambda **k: GGDeiT(**k),
    'scalablevit': lambda **k: ScalableViT(out_indices=(0, 1), **k),
    'gpvit': lambda **k: GPViT(out_indices=(1, 2), **k),
    'gpvit adapter': lambda **k: GPViTAdapter(**k),
}


@pytest.fixture
def group(tmp_path):
    """A process group of one, in which torch repeats what it warns of."""
    once = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    store = dist.FileStore(str(tmp_path / 'store'), 1)
    dist.init_process_group('gloo', store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()
    torch.set_warn_always(once)


def step(model, image):
    """A backward pass."""
    sum(out.square().mean() for out in model(image)).backward()


@pytest.mark.parametrize('name', MODELS)
def test_gradients_fit_the_buckets(name, group):
    """Gradients have the strides of their weights: else every step copies them, with a warning."""
    model = MODELS[name]()
    wrapped = DistributedDataParallel(model)
    image = torch.randn(2, model.in_channels, 65, 97)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        for _ in range(2):
            step(wrapped, image)
    said = [str(w.message) for w in caught if re.search('strides', str(w.message))]
    assert not said
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name


def test_strides_are_looked_at(group):
    """The warning is one that this would see: a table of one column, gathered along its rows."""

    class Gathered(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Parameter(torch.randn(9, 1))

        def forward(self, index):
            return (self.table.t()[:, index],)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        step(DistributedDataParallel(Gathered()), torch.arange(9))
    assert any('strides' in str(w.message) for w in caught)


@pytest.mark.parametrize(
    ('family', 'with_cp'),
    [('gcvit', False), *[(family, True) for family in FAMILIES if family != 'gpvit_adapter']],
)
def test_compiled(family, with_cp, group):
    """compile= inside of DDP, with and without recomputation: no break, the same gradients."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    options = dict(with_cp=with_cp, drop_path_rate=0.0, **PARTS.get(family, {}))
    model = shallow(family, **options)
    twin = shallow(family, compile=dict(backend='eager', dynamic=False), **options)
    twin.load_state_dict(model.state_dict())
    image = torch.randn(2, model.in_channels, 65, 97)
    step(model, image)
    step(DistributedDataParallel(twin), image)
    assert not counters['graph_break'] and counters['stats']['unique_graphs'] >= 1
    for (key, found), wanted in zip(twin.named_parameters(), model.parameters()):
        torch.testing.assert_close(
            found.grad, wanted.grad, atol=1e-5, rtol=2e-3, msg=lambda text, n=key: f'{n}: {text}'
        )
