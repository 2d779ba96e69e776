"""What every backbone of the package keeps, family by family.

A new family is added to ``FAMILIES`` of ``support/families.py``; what only one family has is asked
in a file of its own.
"""

import importlib
import itertools
import re
import subprocess
import sys

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from gcvit_mm import CheckpointError
from gcvit_mm.engine.sharding import BLOCKS
from support.families import FAMILIES, make, model_stages, strides
from support.gcvit_reference import check_images
from support.running import ENV, ROOT, TESTS

SUBSETS = [s for n in (1, 2, 3, 4) for s in itertools.combinations(range(4), n)]
WITH_OUT_INDICES = ('gcvit', 'scalablevit', 'gg', 'gpvit')


@pytest.fixture(params=FAMILIES)
def family(request):
    """Name of a family."""
    return request.param


@pytest.mark.parametrize('size', [(32, 32), (33, 47), (65, 97), (250, 328)])
def test_any_size(family, size):
    """Maps have sides ceil(side / stride), and are finite; maps of the stages lie in order."""
    model = make(family).eval()
    with torch.no_grad():
        outs = model(torch.randn(1, 3, *size))
    expected = [(-(-size[0] // s), -(-size[1] // s)) for s in strides(family)]
    assert [tuple(out.shape[2:]) for out in outs] == expected
    assert [out.shape[1] for out in outs] == list(model.out_channels)
    assert all(out.isfinite().all() for out in outs)
    assert family not in WITH_OUT_INDICES or all(out.is_contiguous() for out in outs)


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
    # 40x70: also the last maps have more than one token, so that attention has a say
    sum((out * torch.randn_like(out)).sum() for out in model(torch.randn(1, 3, 40, 70))).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert not missing
    # shifting all keys by one vector changes no softmax: biases of keys alone may have none
    flat = [
        name
        for name, p in model.named_parameters()
        if not p.grad.abs().sum() > 0 and not name.endswith('.k.bias')
    ]
    assert not flat


def count_calls(model):
    """Count how often each block is entered, from now on."""
    calls = {block: 0 for block in model.modules() if isinstance(block, BLOCKS)}

    def enter(block, _):
        calls[block] += 1

    for block in calls:
        block.register_forward_pre_hook(enter)
    return calls


def test_checkpointing_changes_nothing(family):
    """with_cp gives the same maps and gradients, stochastic depth included, and recomputes."""
    plain, recomputing = make(family, 0.3).train(), make(family, 0.3, with_cp=True).train()
    recomputing.load_state_dict(plain.state_dict())
    image = torch.randn(2, 3, 64, 80)
    outs = {}
    for name, model, times in (('plain', plain, 1), ('recomputing', recomputing, 2)):
        calls = count_calls(model)
        torch.manual_seed(3)
        outs[name] = model(image)
        assert len(calls) == sum(model.depths) and set(calls.values()) == {1}
        sum(out.square().mean() for out in outs[name]).backward()
        assert set(calls.values()) == {times}
    for a, b in zip(outs['plain'], outs['recomputing']):
        torch.testing.assert_close(a, b)
    for (name, a), b in zip(plain.named_parameters(), recomputing.parameters()):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


@pytest.mark.parametrize('with_cp', [(0,), [1, 3], []], ids=str)
@pytest.mark.parametrize('family', WITH_OUT_INDICES)
def test_checkpointing_of_stages(family, with_cp):
    """Only the blocks of the chosen stages are recomputed."""
    model = make(family, with_cp=with_cp, out_indices=(0, 1, 2, 3)).train()
    calls = count_calls(model)
    sum(out.square().mean() for out in model(torch.randn(1, 3, 64, 64))).backward()
    chosen = {module for i in with_cp for module in model.stages[i].modules()}
    assert all(times == (2 if block in chosen else 1) for block, times in calls.items())


@pytest.mark.parametrize('with_cp', [2, (4,), (-1,), [True, False], 'all', 0.5, (0, 'a')], ids=str)
def test_checkpointing_of_no_stage(with_cp):
    """Anything but True, False or stages that are built is refused."""
    with pytest.raises(ValueError, match=r'True, False or some of the stages 0\.\.3'):
        make(WITH_OUT_INDICES[0], with_cp=with_cp)


def test_checkpointing_rests_in_evaluation(family):
    """Without gradients there is nothing to recompute."""
    model = make(family, with_cp=True).eval()
    calls = count_calls(model)
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    assert set(calls.values()) == {1}


@pytest.mark.parametrize('frozen_stages', [0, 1])
@pytest.mark.parametrize('family', WITH_OUT_INDICES)
def test_checkpointing_after_frozen_stages(family, frozen_stages):
    """The first block that trains is recomputed too, though its input needs no gradient."""
    model = make(family, with_cp=True, frozen_stages=frozen_stages).train()
    calls = count_calls(model)
    sum(out.square().mean() for out in model(torch.randn(1, 3, 64, 64))).backward()
    frozen = {block for stage in model.stages[:frozen_stages] for block in stage.modules()}
    assert all(times == (1 if block in frozen else 2) for block, times in calls.items())
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize('out_indices', [(0,), (1, 3), (2,), (-1,), (-3, -1)], ids=str)
@pytest.mark.parametrize('family', WITH_OUT_INDICES)
@torch.no_grad()
def test_maps_do_not_depend_on_which_are_asked_for(family, out_indices):
    """Fewer maps are the same maps; negative indices count from the end."""
    full = make(family, out_indices=(0, 1, 2, 3)).eval()
    part = make(family, out_indices=out_indices).eval()
    assert not part.load_state_dict(full.state_dict(), strict=False).missing_keys
    assert part.out_indices == tuple(i % 4 for i in out_indices)
    image = torch.randn(1, 3, 64, 96)
    maps = full(image)
    for got, i in zip(part(image), out_indices):
        torch.testing.assert_close(got, maps[i], atol=1e-6, rtol=0)


@pytest.mark.parametrize('out_indices', [(), (4,), (-5,), (1, 0), (2, 2), (0, -4)], ids=str)
@pytest.mark.parametrize('family', WITH_OUT_INDICES)
def test_out_indices_that_make_no_sense(family, out_indices):
    """The error shows what fits."""
    with pytest.raises(ValueError, match=r'out_indices must be ascending.*0\.\.3'):
        make(family, out_indices=out_indices)


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2, 4])
def test_freezing(family, frozen_stages):
    """Parameters, mode and maps of frozen parts stay, from the start; the others train."""
    if frozen_stages > model_stages(family):
        with pytest.raises(ValueError, match='frozen_stages must be between'):
            make(family, frozen_stages=frozen_stages)
        return
    model = make(family, 0.5, frozen_stages=frozen_stages, drop_rate=0.3)
    frozen = [] if frozen_stages < 0 else [model.patch_embed]
    frozen += [model.pos_embed] if frozen and hasattr(model, 'pos_embed') else []
    for i in range(max(frozen_stages, 0)):
        frozen += [model.stages[i]]
        if hasattr(model, f'norm{i}'):
            frozen.append(getattr(model, f'norm{i}'))
    ids = {id(p) for module in frozen for p in module.parameters()}
    modules = {module for part in frozen for module in part.modules()}

    def check():
        for name, p in model.named_parameters():
            is_frozen = id(p) in ids or (frozen_stages >= 0 and name == 'cls_token')
            assert p.requires_grad is not is_frozen, name
        assert not any(module.training for module in modules)

    check()
    assert model.eval() is model and not any(m.training for m in model.modules())
    assert model.train() is model
    check()
    for name, module in model.named_modules():
        assert module.training or module in modules or not name or 'pos_' in name, name
    image = torch.randn(2, 3, 64, 64)
    first, second = model(image), model(image)
    if family in ('gcvit', 'scalablevit', 'gg'):
        for i, (a, b) in enumerate(zip(first, second)):
            assert torch.equal(a, b) == (i < frozen_stages), f'map {i}'
    if any(out.requires_grad for out in first):
        sum((out * torch.randn_like(out)).sum() for out in first).backward()
    for name, p in model.named_parameters():
        assert (p.grad is None) is not p.requires_grad, name


@pytest.mark.parametrize('in_channels', [1, 4])
def test_other_channels(family, in_channels):
    """Images may have other than three channels; a wrong number is an error that says so."""
    model = make(family, in_channels=in_channels).eval()
    assert model(torch.randn(1, in_channels, 40, 40))[0].isfinite().all()
    message = rf'\(B, {in_channels}, H, W\).*\(1, 3, 64, 64\).*in_chann'
    with pytest.raises(ValueError, match=message):
        model(torch.randn(1, 3, 64, 64))


def test_an_image_needs_its_batch_axis(family):
    """A single image without batch axis is an error that shows the shape."""
    with pytest.raises(ValueError, match=r'\(3, 64, 64\)'):
        make(family)(torch.randn(3, 64, 64))


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
    """From the root with each library as default, and by the registry of each library."""
    registries = [MODELS]
    if scope != 'mmengine':
        pytest.importorskip(scope)
        registries.append(importlib.import_module(f'{scope}.registry').MODELS)
    cls, arch = FAMILIES[family]
    config = dict(type=cls.__name__, arch=dict(arch, drop_path_rate=0.0))
    for registry in registries:
        assert type(registry.build(dict(config))) is cls
        with DefaultScope.overwrite_default_scope(scope):
            assert type(registry.build(dict(config))) is cls


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


WITHOUT_LIBRARIES = """
import sys
import gcvit_mm
found = {'mmdet', 'mmseg', 'mmpretrain', 'timm'} & set(sys.modules)
assert not found, found  # also where they are installed, importing the package stays light
assert not {'gcvit_mm.cli', 'gcvit_mm.inference'} & set(sys.modules)
blocked = ('mmcv._ext', 'mmdet', 'mmseg', 'mmpretrain', 'timm')
sys.modules.update(dict.fromkeys(blocked))  # importing them fails
try:
    import mmcv._ext
except ImportError:
    pass
else:
    raise SystemExit('mmcv._ext is not blocked')
import torch
from support.families import FAMILIES, make
for family in FAMILIES:
    sum(out.mean() for out in make(family)(torch.randn(2, 3, 64, 64))).backward()
    with torch.no_grad():
        assert make(family).eval()(torch.randn(1, 3, 64, 64))[-1].isfinite().all()
gcvit_mm.create('gg_tiny')
assert gcvit_mm.list_models('mask_gg_*')
assert 'mmcv.ops' not in sys.modules
print('all run')
"""


def test_runs_without_compiled_ops_and_libraries():
    """mmcv's Python half and torch are all it takes, to import, to train and to run."""
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_LIBRARIES],
        cwd=ROOT,
        env=dict(ENV, PYTHONPATH=TESTS),
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip().endswith('all run'), done.stderr[-2000:]
