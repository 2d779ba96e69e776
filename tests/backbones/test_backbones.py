"""What every backbone of the package keeps, family by family.

A new family is added to ``FAMILIES``; what only one family has is asked in a file of its own.
"""

import itertools
import re
import subprocess
import sys

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

import gcvit_mm
from gcvit_mm import CheckpointError
from support.families import FAMILIES, make, model_stages, strides
from support.gcvit_reference import check_images
from support.running import ROOT

SUBSETS = [s for n in (1, 2, 3, 4) for s in itertools.combinations(range(4), n)]


@pytest.fixture(params=FAMILIES)
def family(request):
    """Name of a family."""
    return request.param


@pytest.mark.parametrize('size', [(32, 32), (33, 47), (65, 97), (250, 328)])
def test_any_size(family, size):
    """Maps have sides ceil(side / stride) and are finite."""
    model = make(family).eval()
    with torch.no_grad():
        outs = model(torch.randn(1, 3, *size))
    expected = [(-(-size[0] // s), -(-size[1] // s)) for s in strides(family)]
    assert [tuple(out.shape[2:]) for out in outs] == expected
    assert [out.shape[1] for out in outs] == list(model.out_channels)
    assert all(out.isfinite().all() for out in outs)


@pytest.mark.parametrize('size', [(64, 96), (75, 51)])
def test_batch_equals_singles(family, size):
    """The maps of an image do not depend on its neighbours in the batch."""
    model = make(family).eval()
    images = torch.cat([check_images(*size), torch.zeros(1, 3, *size)])
    images[2, :, :, size[1] // 2 :] = 2
    with torch.no_grad():
        together = model(images)
        alone = [model(image[None]) for image in images]
    for level, out in enumerate(together):
        atol = 1e-5 * max(1, out.abs().max().item())  # maps of fresh BN and noise reach 25
        for b in range(3):
            torch.testing.assert_close(out[b], alone[b][level][0], atol=atol, rtol=1e-5)


@pytest.mark.parametrize('out_indices', SUBSETS, ids=str)
def test_every_parameter_gets_a_gradient(family, out_indices):
    """DDP needs no find_unused_parameters, whichever maps are asked for."""
    if family == 'gg_deit':
        if out_indices != (0,):
            pytest.skip('one map only')
        model = make(family).train()
    elif family == 'gpvit_adapter':
        model = make(family, out_strides=[strides(family)[i] for i in out_indices]).train()
    else:
        model = make(family, out_indices=out_indices).train()
    # 97x131: also the last maps have more than one token, so that attention has a say
    sum((out * torch.randn_like(out)).sum() for out in model(torch.randn(1, 3, 97, 131))).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert not missing
    # shifting all keys by one vector changes no softmax: biases of keys alone may have none
    flat = [
        name
        for name, p in model.named_parameters()
        if not p.grad.abs().sum() > 0 and not name.endswith('.k.bias')
    ]
    assert not flat


def test_checkpointing_changes_nothing(family):
    """with_cp gives the same maps and gradients, stochastic depth included, and recomputes."""
    plain, recomputing = make(family, 0.3).train(), make(family, 0.3, with_cp=True).train()
    recomputing.load_state_dict(plain.state_dict())
    image = torch.randn(2, 3, 64, 80)
    calls = []
    for module in recomputing.modules():
        if isinstance(module, gcvit_mm.layers.Block):
            module.register_forward_pre_hook(lambda *_: calls.append(1))
    outs = {}
    for name, model in (('plain', plain), ('recomputing', recomputing)):
        torch.manual_seed(3)
        outs[name] = model(image)
        forwards = len(calls)
        sum(out.square().mean() for out in outs[name]).backward()
    assert len(calls) == 2 * forwards > 0
    for a, b in zip(outs['plain'], outs['recomputing']):
        torch.testing.assert_close(a, b)
    for (name, a), b in zip(plain.named_parameters(), recomputing.parameters()):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2, 4])
def test_freezing(family, frozen_stages):
    """Frozen parts have no gradient and stay in eval mode; train() returns the model."""
    if frozen_stages > model_stages(family):
        with pytest.raises(ValueError, match='frozen_stages must be between'):
            make(family, frozen_stages=frozen_stages)
        return
    model = make(family, frozen_stages=frozen_stages)
    assert model.train() is model
    frozen = [] if frozen_stages < 0 else [model.patch_embed]
    frozen += [model.pos_embed] if frozen and hasattr(model, 'pos_embed') else []
    for i in range(max(frozen_stages, 0)):
        frozen += [model.stages[i]]
        if hasattr(model, f'norm{i}'):
            frozen.append(getattr(model, f'norm{i}'))
    ids = {id(p) for module in frozen for p in module.parameters()}
    assert all(not m.training for module in frozen for m in module.modules())
    for name, p in model.named_parameters():
        is_frozen = id(p) in ids or (frozen_stages >= 0 and name == 'cls_token')
        assert p.requires_grad is not is_frozen, name
    if frozen_stages < model_stages(family):
        assert model.stages[-1].training


@pytest.mark.parametrize('in_channels', [1, 4])
def test_other_channels(family, in_channels):
    """Images may have other than three channels; a wrong number is an error that says so."""
    model = make(family, in_channels=in_channels).eval()
    assert model(torch.randn(1, in_channels, 40, 40))[0].isfinite().all()
    with pytest.raises(ValueError, match=f'expects images .B, {in_channels}, H, W.'):
        model(torch.randn(1, 3, 40, 40))


def test_unknown_argument(family):
    """A misspelt argument is named, with what was meant and all that are known."""
    with pytest.raises(TypeError, match="no argument 'frozen_stage' .did you mean 'frozen_stages'"):
        make(family, frozen_stage=1)


def test_own_checkpoint_loads_back(family, tmp_path):
    """What a backbone writes, it reads: bare, strictly, and through init_cfg."""
    model = make(family)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'own.pth')
    cls, arch = FAMILIES[family]
    again = cls(
        dict(arch, drop_path_rate=0.0),
        init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'own.pth')),
    )
    again.init_weights()
    for (name, a), b in zip(model.state_dict().items(), again.state_dict().values()):
        assert torch.equal(a, b), name


def test_foreign_checkpoint_is_refused(family, tmp_path):
    """Weights of another family are an error."""
    other = 'gg' if family != 'gg' else 'gcvit'
    torch.save(dict(state_dict=make(other).state_dict()), tmp_path / 'other.pth')
    model = make(family, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'other.pth')))
    with pytest.raises(CheckpointError, match='does not fit'):
        model.init_weights()


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'mmseg', 'mmpretrain'])
def test_found_from_every_scope(family, scope):
    """The root registry serves every library."""
    if scope != 'mmengine':
        pytest.importorskip(scope)
    cls, arch = FAMILIES[family]
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(dict(type=cls.__name__, arch=dict(arch, drop_path_rate=0.0)))
    assert type(model) is cls


def test_layer_depth(family):
    """Depth never falls from stem to head and covers what the head does not own."""
    model = make(family)
    depths = [
        model.get_layer_depth(f'backbone.{n}', 'backbone.') for n, _ in model.named_parameters()
    ]
    count = sum(model.depths) + 2
    assert {total for _, total in depths} == {count}
    assert {depth for depth, _ in depths} == set(range(count))
    assert model.get_layer_depth('neck.weight', 'backbone.')[0] == count - 1
    assert model.get_layer_depth('backbone.patch_embed.proj.weight', 'backbone.')[0] == 0


def test_linear_layers_start_small(family):
    """Linear layers are trunc-normal with std 0.02 and zero bias from the constructor on."""
    cls, arch = FAMILIES[family]
    model = cls(dict(arch, drop_path_rate=0.0))
    deformable = 'adapter.+.attn.'  # has values of its own
    linears = [
        m
        for name, m in model.named_modules()
        if isinstance(m, nn.Linear) and not re.search(deformable, name)
    ]
    weights = torch.cat([m.weight.flatten() for m in linears])
    assert 0.018 < weights.std() < 0.022
    assert all(m.bias is None or not m.bias.any() for m in linears)


def test_runs_without_compiled_ops():
    """Import and forward of all families without mmcv._ext, mmdet, mmseg and mmpretrain."""
    code = """
import sys
for name in ('mmcv._ext', 'mmdet', 'mmseg', 'mmpretrain'):
    sys.modules[name] = None
import torch, gcvit_mm
for model in (gcvit_mm.GCViT('xxtiny'), gcvit_mm.ScalableViT(), gcvit_mm.GGTransformer(),
              gcvit_mm.GGDeiT()):
    assert model.eval()(torch.zeros(1, 3, 32, 32))[-1].isfinite().all()
print('all run')
"""
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert result.stdout.strip().endswith('all run'), result.stderr[-2000:]
