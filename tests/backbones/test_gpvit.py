"""GPViT, its adapter and its neck: numbers, equations, released files, ablations.

`gpvit_reference` holds the models as plain functions of a state dict in the released layout; what
is built here loads that layout and must give the same.
"""

import logging
import re
import sys

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gcvit_mm import CheckpointError, GCViT, GPViT, GPViTAdapter, GroupNeck
from gcvit_mm.backbones.gpvit import LocalBlock, StripeAttention
from gcvit_mm.backbones.group_propagation import GPBlock, Grouping, Ungrouping
from gcvit_mm.backbones.vit_adapter import Extractor, Injector
from gcvit_mm.checkpoints import convert_state_dict, load_model
from gcvit_mm.layers.deform_attn import (
    DeformableAttention,
    sample_torch,
)
from support.gpvit_reference import (
    POINTS,
    adapter,
    adapter_shapes,
    backbone_shapes,
    centres,
    classifier_shapes,
    deform_attn,
    double,
    group,
    logits,
    mask_rcnn_shapes,
    mix,
    plain,
    released_file,
    retinanet_shapes,
    sample,
    segformer_shapes,
    state_of,
    sub,
    upernet_shapes,
)
from support.running import ROOT
from support.sampling import MAPS, results, sampled

C = 24
GROUPS = {1: 8, 4: 4, 7: 4, 10: 2}
ARCH = dict(
    embed_dims=C,
    depth=12,
    num_heads=12,
    group_heads=6,
    groups=GROUPS,
    mlp_ratio=4.0,
    stripe=2,
    stem_convs=1,
    drop_path_rate=0.0,
)
SMALL = dict(convs=1, groups=GROUPS)  # what makes the reference's shapes those of ARCH
LEVELS = {(4, 8, 16, 32): 4, (8, 16, 32): 3}
SEGMENTATION = (2, 5, 8, 11)
SIZES = ('L1', 'L2', 'L3', 'L4')


# ---------------------------------------------------------------------- helpers
def on_meta(cls, arch, **kwargs):
    """A model without memory."""
    with torch.device('meta'):
        return cls(arch, **kwargs).eval()


def count(model):
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())


def gmacs(model, size):
    """Multiply-accumulates of one image: of convolutions and linear layers, and of all."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, *size, device='meta'))
    counts = counter.get_flop_counts()['Global']
    products = (torch.ops.aten.bmm, torch.ops.aten.baddbmm)
    alone = sum(v for k, v in counts.items() if k not in products and 'attention' not in str(k))
    return alone / 2e9, counter.get_total_flops() / 2e9


def write(folder, state, name='released.pth', **kwargs):
    """A checkpoint as the authors' trainer writes it; its path."""
    path = folder / name
    torch.save(released_file(state, **kwargs), path)
    return path


def build(cls, path, arch=None, init=None, **kwargs):
    """A backbone in eval mode that has loaded a file the way configs have it."""
    init_cfg = dict(type='Pretrained', checkpoint=str(path), **(init or {}))
    model = cls(arch or ARCH, init_cfg=init_cfg, **kwargs)
    model.init_weights()
    return model.eval()


def from_state(cls, state, arch=None, **kwargs):
    """A backbone in eval mode with the weights of a released state dict, loaded strictly."""
    model = cls(arch or ARCH, **kwargs)
    converted = convert_state_dict(state)
    model.load_state_dict({k[len('backbone.') :]: v for k, v in converted.items()})
    return model.eval()


def failure(cls, path, **kwargs):
    """The message of a load that fails."""
    with pytest.raises(CheckpointError) as error:
        build(cls, path, **kwargs)
    assert '\n' not in str(error.value)
    return str(error.value)


def released(shapes):
    """Drawn weights of a backbone, without and with the prefix they have in files."""
    state = state_of(shapes)
    return state, {f'backbone.{k}': v for k, v in state.items()}


def assert_maps_equal(got, want, atol=1e-5):
    """Compare maps with those of the reference, in float64; atol is of their largest value."""
    assert len(got) == len(want)
    for a, b in zip(got, want):
        assert a.shape == b.shape
        largest = max(1, b.abs().max().item())
        torch.testing.assert_close(a.double(), b, atol=atol * largest, rtol=atol)


@pytest.fixture
def log():
    """Everything that is logged."""
    records = []

    class Keep(logging.Handler):
        def emit(self, record):
            records.append(record.getMessage())

    logger, handler = MMLogger.get_current_instance(), Keep()
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


# ---------------------------------------------------------------------- counts and shapes
@pytest.mark.parametrize(
    'arch, backbone, four_levels, three_levels',
    [
        ('L1', 9325544, 12078436, 11877124),
        ('L2', 23691532, 28733370, 28225290),
        ('L3', 36221056, 43209384, 42433512),
        ('L4', 74859456, 87727688, 86127752),
    ],
)
def test_parameters(arch, backbone, four_levels, three_levels):
    """Counts of the released backbones, without heads."""
    model = on_meta(GPViT, arch)
    assert count(model) == backbone
    c = model.embed_dims[0]
    assert count(on_meta(GPViT, arch, out_indices=SEGMENTATION)) == backbone + 6 * c
    assert count(on_meta(GPViTAdapter, arch)) == four_levels
    assert count(on_meta(GPViTAdapter, arch, out_strides=(8, 16, 32))) == three_levels


@pytest.mark.parametrize(
    'arch, average, with_neck',
    [('L1', 9.54, 9.59), ('L2', 24.04, 24.16), ('L3', 36.65, 36.84), ('L4', 75.48, 75.88)],
)
def test_parameters_of_classifiers(arch, average, with_neck):
    """In M, with the 1000-class head on averages or on the neck."""
    model = on_meta(GPViT, arch)
    c = model.embed_dims[0]
    total = count(model) + c * 1000 + 1000
    assert total / 1e6 == pytest.approx(average, abs=0.0051)
    assert (total + count(GroupNeck(c))) / 1e6 == pytest.approx(with_neck, abs=0.0051)


@pytest.mark.parametrize(
    'arch, size, layers, everything',
    [
        ('L1', (224, 224), 5.81, 6.06),
        ('L2', (224, 224), 15.15, 15.55),
        ('L3', (224, 224), 22.94, 23.44),
        ('L4', (224, 224), 47.43, 48.15),
        ('L1', (800, 1280), 117.1, 133.5),
    ],
)
def test_macs(arch, size, layers, everything):
    """In G: of convolutions and linear layers alone, and with the products of attention."""
    alone, total = gmacs(on_meta(GPViT, arch), size)
    assert alone == pytest.approx(layers, rel=0.001)
    assert total == pytest.approx(everything, rel=0.001)


@pytest.mark.parametrize(
    'kwargs, millions',
    [
        (dict(local_attn='window', global_attn='none'), 7.15),
        (dict(local_attn='window', global_attn='conv'), 8.26),
        (dict(local_attn='window', global_attn='attention'), 7.15),
        (dict(local_attn='window', global_attn='shift'), 7.15),
        (dict(local_attn='window'), 9.29),
        (dict(global_attn='none'), 7.20),
        (dict(global_attn='conv'), 8.30),
        (dict(global_attn='attention'), 7.19),
        (dict(), 9.33),
        (dict(groups=(16, 16, 16, 16)), 9.29),
        (dict(groups=(32, 32, 32, 32)), 9.32),
        (dict(groups=(64, 64, 64, 64)), 9.37),
        (dict(groups=(16, 32, 32, 64)), 9.33),
        (dict(groups={1: 64, 4: 32, 7: 32, 10: 16}), 9.33),
        (dict(propagation='none'), 7.79),
        (dict(propagation='attention'), 7.79 + 2.25),
    ],
    ids=str,
)
def test_ablations(kwargs, millions):
    """Rows of Tables 7, 8 and 9, counted without head."""
    assert count(on_meta(GPViT, 'L1', **kwargs)) / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize(
    'arch, patch_size, millions',
    [
        ('D216', 8, 7.37),
        ('D348', 8, 18.52),
        ('D432', 8, 28.20),
        ('D624', 8, 58.01),
        ('D216', 16, 7.91),
        ('D348', 16, 19.38),
        ('D432', 16, 29.28),
        ('D624', 16, 59.56),
    ],
)
def test_plain_transformers(arch, patch_size, millions):
    """ViT-D of Tables 6 and 10, with their head of 1000 classes."""
    model = on_meta(GPViT, arch, patch_size=patch_size)
    head = (model.arch_settings['embed_dims'] + 1) * 1000
    assert (count(model) + head) / 1e6 == pytest.approx(millions, abs=0.0055)
    if arch == 'D216':
        wanted = {8: 8.75, 16: 1.81}[patch_size]
        assert gmacs(model, (224, 224))[1] == pytest.approx(wanted, abs=0.01)


@torch.no_grad()
def test_patches_of_16():
    """Stride 16, at any size; the adapter's pyramid begins at 8."""
    model = GPViT(ARCH, patch_size=16, local_attn='attention', global_attn='none').eval()
    assert [tuple(out.shape) for out in model(torch.randn(2, 3, 65, 97))] == [(2, C, 5, 7)]
    with pytest.raises(ValueError, match='the adapter needs patch_size=8, got 16'):
        GPViTAdapter(ARCH, patch_size=16)


@pytest.mark.parametrize(
    'size, expected',
    [
        ((224, 224), (28, 28)),
        ((64, 96), (8, 12)),
        ((90, 96), (12, 12)),
        ((72, 72), (9, 9)),
        ((56, 56), (7, 7)),
        ((33, 47), (5, 6)),
        ((120, 128), (15, 16)),
        ((8, 8), (1, 1)),
        ((1, 1), (1, 1)),
    ],
)
@torch.no_grad()
def test_shapes(size, expected):
    """Every map has stride 8 and is finite, whatever the size."""
    model = GPViT(ARCH, out_indices=SEGMENTATION).eval()
    outs = model(torch.randn(1, 3, *size))
    assert [tuple(out.shape) for out in outs] == 4 * [(1, C, *expected)]
    assert all(out.isfinite().all() for out in outs)


@pytest.mark.parametrize(
    'size, expected',
    [
        ((224, 224), [(56, 56), (28, 28), (14, 14), (7, 7)]),
        ((64, 96), [(16, 24), (8, 12), (4, 6), (2, 3)]),
        ((65, 97), [(17, 25), (9, 13), (5, 7), (3, 4)]),
        ((33, 31), [(9, 8), (5, 4), (3, 2), (2, 1)]),
        ((100, 70), [(25, 18), (13, 9), (7, 5), (4, 3)]),
    ],
)
@torch.no_grad()
def test_shapes_of_adapter(size, expected):
    """Strides 4 to 32, or the last three of them."""
    for strides in LEVELS:
        model = GPViTAdapter(ARCH, out_strides=strides).eval()
        assert model.out_channels == (C,) * len(strides)
        outs = model(torch.randn(1, 3, *size))
        assert [tuple(out.shape[1:]) for out in outs] == [
            (C, *s) for s in expected[-len(strides) :]
        ]
        assert all(out.isfinite().all() for out in outs)


# ---------------------------------------------------------------------- against the reference
# In float64 even another epsilon of a norm shows.
@pytest.mark.parametrize(
    'size', [(224, 224), (64, 96), (90, 96), (72, 40), (33, 47), (1, 1)], ids=str
)
@torch.no_grad()
def test_plain_equals_the_reference(size):
    """Weights in the released layout give the released maps; odd grids have narrow stripes."""
    state, whole = released(backbone_shapes(C, norms=(2, 5, 8), **SMALL))
    model = from_state(GPViT, whole, out_indices=SEGMENTATION).double()
    image = torch.randn(2, 3, *size, dtype=torch.double)
    assert_maps_equal(model(image), plain(double(state), image, SEGMENTATION), atol=1e-9)


@pytest.mark.parametrize('strides', LEVELS, ids=str)
@pytest.mark.parametrize('size', [(64, 96), (65, 97), (33, 31), (100, 70)], ids=str)
@torch.no_grad()
def test_adapter_equals_the_reference(size, strides):
    """The same with the adapter; images of other sizes than multiples of 32 are padded."""
    state, whole = released(adapter_shapes(C, LEVELS[strides], **SMALL))
    model = from_state(GPViTAdapter, whole, out_strides=strides)
    image = torch.randn(2, 3, *size)
    assert_maps_equal(model(image), adapter(double(state), image.double()))


@torch.no_grad()
def test_plain_l1_equals_the_reference():
    """The same at the size of the release; its adapter is compared in the configs' detectors."""
    state, whole = released(backbone_shapes(216, norms=(2, 5, 8)))
    model = from_state(GPViT, whole, 'L1', out_indices=SEGMENTATION)
    image = torch.randn(1, 3, 65, 97)
    assert_maps_equal(model(image), plain(double(state), image.double(), SEGMENTATION))


@pytest.mark.parametrize('arch, c, convs', [('L2', 348, 1), ('L3', 432, 1), ('L4', 624, 2)])
def test_released_sizes_load(arch, c, convs):
    """The keys and shapes of the released files are those of the larger models."""
    for cls, shapes in (
        (GPViT, backbone_shapes(c, convs)),
        (GPViTAdapter, adapter_shapes(c, convs=convs)),
    ):
        state = {f'backbone.{k}': torch.empty(v, device='meta') for k, v in shapes.items()}
        converted = convert_state_dict(state)
        own = on_meta(cls, arch).state_dict()
        assert {k[9:]: v.shape for k, v in converted.items()} == {
            k: v.shape for k, v in own.items()
        }


@torch.no_grad()
def test_out_indices_do_not_change_the_stream():
    """A norm of an output acts on a copy; later layers see what they would have seen."""
    _, whole = released(backbone_shapes(C, norms=(2, 5, 8), **SMALL))
    image = torch.randn(1, 3, 64, 64)
    model = from_state(GPViT, whole, out_indices=SEGMENTATION)
    _, alone = released(backbone_shapes(C, **SMALL))
    assert torch.equal(from_state(GPViT, alone)(image)[0], model(image)[-1])


@torch.no_grad()
def test_stripes_of_another_width():
    """Each half of the channels attends in its own direction, as far as a stripe is wide."""
    attn = StripeAttention(C, 4, stripe=3)
    for p in attn.parameters():
        p.copy_(0.2 * torch.randn_like(p))
    x = torch.randn(1, 7, 8, C)
    changed = x.clone()
    changed[0, 4, 4] += torch.randn(C)
    nn.init.eye_(attn.proj.weight)
    reach = ((attn(changed) - attn(x)).abs() > 1e-7)[0]
    vertical, horizontal = reach[..., : C // 2].any(-1), reach[..., C // 2 :].any(-1)
    assert vertical[:, 3:6].all() and not vertical[:, :3].any() and not vertical[:, 6:].any()
    assert horizontal[3:6].all() and not horizontal[:3].any() and not horizontal[6:].any()


# ---------------------------------------------------------------------- classifier
def classifier(neck, num_classes=10):
    """A small classifier of mmpretrain."""
    pytest.importorskip('mmpretrain')
    init_default_scope('mmpretrain')
    return MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(type='GPViT', arch=ARCH),
            neck=dict(type='GroupNeck', embed_dims=C)
            if neck
            else dict(type='mmpretrain.GlobalAveragePooling'),
            head=dict(type='mmpretrain.LinearClsHead', num_classes=num_classes, in_channels=C),
        )
    ).eval()


@pytest.mark.parametrize('neck', [True, False])
@torch.no_grad()
def test_logits(neck, tmp_path, monkeypatch, log):
    """A released classifier, converted by the tool, gives the reference's scores."""
    model = classifier(neck)
    state = state_of(classifier_shapes(C, 10, neck, **SMALL))
    load_model(model, str(convert(write(tmp_path, state), monkeypatch)))
    own = len(model.state_dict())
    assert any(f'loaded {own} of {own} weights' in line for line in log)
    image = torch.randn(3, 3, 64, 72)
    torch.testing.assert_close(
        model(image).double(), logits(double(state), image.double()), atol=1e-5, rtol=1e-5
    )


def test_neck_starts_as_an_average():
    """The class token starts at zero, so all tokens weigh the same; its keys have no bias."""
    neck = GroupNeck(C)
    assert {k: tuple(v.shape) for k, v in neck.named_parameters() if 'norm' not in k} == {
        'group_token': (1, 1, C),
        'attn.k.weight': (C, C),
    }
    maps = torch.randn(2, C, 3, 5), torch.randn(2, C, 4, 6)
    (out,) = neck(maps)
    torch.testing.assert_close(out, maps[1].mean((2, 3)))


# ---------------------------------------------------------------------- released files
def convert(path, monkeypatch):
    """Convert a file with the tool; path of the result."""
    import convert_checkpoint

    out = path.with_name('converted.pth')
    monkeypatch.setattr(sys, 'argv', ['convert_checkpoint.py', str(path), str(out)])
    convert_checkpoint.main()
    return out


@pytest.mark.parametrize(
    'name, shapes',
    [
        ('mask_gpvit_l1_1x', mask_rcnn_shapes),
        ('retinanet_gpvit_l1_1x', retinanet_shapes),
        ('upernet_gpvit_l1_160k', upernet_shapes),
        ('segformer_gpvit_l1_160k', segformer_shapes),
    ],
)
def test_released_models(name, shapes, tmp_path, monkeypatch, log):
    """A released detector or segmentor, converted by the tool, is all that its config needs."""
    pytest.importorskip('mmdet' if shapes in (mask_rcnn_shapes, retinanet_shapes) else 'mmseg')
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    init_default_scope(cfg.get('default_scope'))
    model = MODELS.build(cfg.model).eval()
    state = state_of(shapes(216))
    path = write(tmp_path, state)
    converted = convert(path, monkeypatch)
    path.unlink()
    meta = load_model(model, str(converted))
    converted.unlink()
    own = model.state_dict()
    assert len(own) == len(state)
    assert any(f'loaded {len(own)} of {len(own)} weights' in line for line in log)
    assert "authors' GPViT" in meta['layout']
    # Values arrive where they belong: necks and heads keep their names, the backbone its maps.
    for key, value in state.items():
        if not key.startswith('backbone.'):
            assert torch.equal(own[key], value), key
    image = torch.randn(1, 3, 64, 32)
    weights = double(sub(state, 'backbone.'))
    with torch.no_grad():
        got = model.backbone(image)
        if 'level_embed' in weights:
            assert_maps_equal(got, adapter(weights, image.double()))
        else:
            assert_maps_equal(got, plain(weights, image.double(), SEGMENTATION))


# ---------------------------------------------------------------------- loading into backbones
@pytest.mark.parametrize('prefix', ['module.', ''])
@torch.no_grad()
def test_classifier_into_a_backbone(prefix, tmp_path, log):
    """Neck and head are left out; so are later layers where nobody asks for their maps."""
    state = state_of(classifier_shapes(C, 10, **SMALL))
    path = write(tmp_path, state, prefix=prefix)
    image = torch.randn(1, 3, 64, 64)
    backbone = double(sub(state, 'backbone.'))
    assert_maps_equal(build(GPViT, path)(image), plain(backbone, image.double()))
    # one neck token, two of its norm, one of its keys, two of the head
    assert '6 of heads and unused stages left out' in log[-1]
    model = build(GPViT, path, out_indices=(4,))
    assert 'start fresh: norm4.weight, norm4.bias' in log[-1]
    assert len(model.layers) == 5
    backbone['norm4.weight'], backbone['norm4.bias'] = torch.ones(C), torch.zeros(C)
    assert_maps_equal(model(image), plain(backbone, image.double(), (4,)))


@torch.no_grad()
def test_classifier_into_segmentation(tmp_path, log):
    """The norms of the first three maps start at one and zero, the last is the file's."""
    state = state_of(classifier_shapes(C, 10, **SMALL))
    model = build(GPViT, write(tmp_path, state), out_indices=SEGMENTATION)
    fresh = 'start fresh: norm2.weight, norm2.bias, norm5.weight, norm5.bias and 2 more'
    assert fresh in log[-1] and 'weights of GPViT' in log[-1]
    weights = double(sub(state, 'backbone.'))
    for i in (2, 5, 8):
        weights[f'norm{i}.weight'], weights[f'norm{i}.bias'] = torch.ones(C), torch.zeros(C)
    image = torch.randn(1, 3, 64, 64)
    assert_maps_equal(model(image), plain(weights, image.double(), SEGMENTATION))


@torch.no_grad()
def test_classifier_into_an_adapter(tmp_path, log):
    """The adapter starts fresh, the final norm is left out; zero gammas keep the layers' output."""
    state = state_of(classifier_shapes(C, 10, neck=False, **SMALL))
    path = write(tmp_path, state)
    model = build(GPViTAdapter, path)
    assert 'start fresh: adapter.' in log[-1]
    assert '4 of heads and unused stages left out' in log[-1]  # ln1 and the head
    assert not any('norm11' in key for key in model.state_dict())
    tokens = []
    for backbone in (model, build(GPViT, path)):
        hook = backbone.layers[-1].register_forward_hook(lambda *call: tokens.append(call[2]))
        backbone(torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)))
        hook.remove()
    torch.testing.assert_close(*tokens)
    assert tokens[0].std() > 0.1


def test_detection_file_into_an_adapter(tmp_path, log):
    """The whole backbone of a detector loads, and nothing starts fresh."""
    _, whole = released(adapter_shapes(C, **SMALL))
    model = build(GPViTAdapter, write(tmp_path, whole))
    own = len(model.state_dict())
    assert len(whole) == own and f'loaded {own} of {own} weights' in log[-1]
    assert 'fresh' not in log[-1] and 'left out' not in log[-1]


@pytest.mark.parametrize(
    'lost, named',
    [
        ('interactions.1', 'adapter.interactions.1'),
        ('ad_norm3', 'adapter.norm_s16'),
        ('level_embed', 'adapter.level_embed'),
        ('layers.3', 'layers.3'),
        ('pos_embed', 'pos_embed.weight'),
    ],
)
def test_incomplete_adapter(lost, named, tmp_path):
    """A file that has an adapter must have all of it."""
    _, whole = released(adapter_shapes(C, **SMALL))
    whole = {k: v for k, v in whole.items() if not k.startswith(f'backbone.{lost}')}
    message = failure(GPViTAdapter, write(tmp_path, whole))
    assert re.search(rf'\d+ missing \({re.escape(named)}', message)


def test_other_levels(tmp_path):
    """A three-level file does not fit four levels, nor the other way round."""
    three, four = (released(adapter_shapes(C, n, **SMALL))[1] for n in (3, 4))
    assert 'missing' in failure(GPViTAdapter, write(tmp_path, three))
    message = failure(GPViTAdapter, write(tmp_path, four), out_strides=(8, 16, 32))
    assert 'unexpected' in message


def test_other_arch(tmp_path):
    """Weights of another size, of other group tokens or of another family do not load."""
    _, whole = released(backbone_shapes(C, **SMALL))
    path = write(tmp_path, whole)
    assert 'of another shape' in failure(GPViT, path, arch='L1')
    message = failure(GPViT, path, groups=(8, 8, 4, 2))
    assert 'layers.4.group_token: file (1, 4, 24), model (1, 8, 24)' in message
    assert 'does not fit GCViT' in failure(GCViT, path, arch='xxtiny')
    torch.save(dict(state_dict=GCViT('xxtiny').state_dict()), tmp_path / 'foreign.pth')
    assert 'does not fit GPViT' in failure(GPViT, tmp_path / 'foreign.pth')


@pytest.mark.parametrize('cls, shapes', [(GPViT, backbone_shapes), (GPViTAdapter, adapter_shapes)])
@torch.no_grad()
def test_positions_of_another_image_size(cls, shapes, tmp_path, log):
    """Embeddings are resized when loaded: by init_cfg, by load_state_dict, in a whole model."""
    state, whole = released(shapes(C, **SMALL))
    stored = state['pos_embed'].transpose(1, 2).reshape(1, C, 28, 28)
    want = F.interpolate(stored, (40, 40), mode='bicubic', align_corners=False)
    want = want.flatten(2).transpose(1, 2)
    model = build(cls, write(tmp_path, whole), img_size=320)
    torch.testing.assert_close(model.pos_embed.weight, want)
    assert 'position embeddings resized' in log[-1]
    torch.testing.assert_close(from_state(cls, whole, img_size=313).pos_embed.weight, want)

    outer = nn.Module()
    outer.backbone = cls(ARCH, img_size=320)
    torch.save(dict(state_dict=convert_state_dict(whole)), tmp_path / 'whole.pth')
    load_model(outer, str(tmp_path / 'whole.pth'))
    torch.testing.assert_close(outer.backbone.pos_embed.weight, want)
    # at its own size a model adds them as they are: no second resize
    image = torch.randn(1, 3, 320, 320)
    added = model.embed(image) - model.patch_embed(image)
    torch.testing.assert_close(added.flatten(1, 2), want, atol=1e-5, rtol=1e-5)


def test_positions_that_cannot_be_resized(tmp_path):
    """A class token too many, or another width, is an error and no guess."""
    _, whole = released(backbone_shapes(C, **SMALL))
    whole['backbone.pos_embed'] = torch.zeros(1, 785, C)
    assert 'pos_embed.weight: file (1, 785, 24)' in failure(GPViT, write(tmp_path, whole))


def test_prefix(tmp_path):
    """The prefix the authors' configs name may be named here too."""
    state, whole = released(backbone_shapes(C, **SMALL))
    model = build(GPViT, write(tmp_path, whole), init=dict(prefix='backbone.'))
    assert torch.equal(model.layers[0].attn.qkv.weight, state['layers.0.qkv.weight'])


# ---------------------------------------------------------------------- deformable attention
@pytest.mark.parametrize('maps', [MAPS, MAPS[:1]], ids=str)
def test_sampling_equals_gathering(maps):
    """Output and gradients of value, points and weights equal a gather pixel by pixel."""
    arguments = sampled(maps)
    outside = ((arguments[1] < 0) | (arguments[1] > 1)).any(-1).float().mean()
    assert 0.2 < outside < 0.8
    for got, want in zip(results(sample_torch, arguments, maps), results(sample, arguments, maps)):
        assert got.isfinite().all()
        torch.testing.assert_close(got, want, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize('maps', [MAPS, MAPS[:1]], ids=str)
def test_sampling_equals_mmcv(maps):
    """The same, asked of mmcv's function in plain torch."""
    pytest.importorskip('mmcv._ext', reason='the compiled ops of mmcv are not installed')
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    arguments = sampled(maps, dtype=torch.float)
    shapes = torch.tensor(maps)

    def of_mmcv(value, _, locations, weights):
        return multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)

    for got, want in zip(results(sample_torch, arguments, maps), results(of_mmcv, arguments, maps)):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def drawn_attention(maps, **kwargs):
    """Deformable attention with weights that all matter, its state dict, and its inputs."""
    attn = DeformableAttention(C, 6, len(maps), POINTS, **kwargs)
    with torch.no_grad():
        for p in attn.parameters():
            p.add_(0.3 * torch.randn_like(p))
    reference = torch.rand(5, 2)
    query, feat = torch.randn(2, 5, C), torch.randn(2, sum(h * w for h, w in maps), C)
    return attn, double(attn.state_dict()), (query, reference, feat)


@pytest.mark.parametrize('impl', ['auto', 'torch'])
@torch.no_grad()
def test_deformable_attention(impl):
    """The layer equals the reference at points given by offsets in pixels of each level."""
    attn, weights, (query, reference, feat) = drawn_attention(MAPS, impl=impl)
    want = deform_attn(weights, query.double(), reference, feat.double(), MAPS)
    assert_maps_equal([attn(query, reference, feat, MAPS)], [want])


@torch.no_grad()
def test_deformable_attention_in_half_precision():
    """Sampling stays in float32 for half-precision inputs and under autocast."""
    attn, _, (query, reference, feat) = drawn_attention(MAPS)
    want = attn(query, reference, feat, MAPS)
    with torch.autocast('cpu', torch.bfloat16):
        mixed = attn(query, reference, feat, MAPS)
    half = attn.bfloat16()(query.bfloat16(), reference, feat.bfloat16(), MAPS)
    assert mixed.dtype == half.dtype == torch.bfloat16
    # weights and inputs are rounded to 8 bits; offsets of several pixels are, too
    for got in (mixed, half):
        torch.testing.assert_close(got.float(), want, atol=0.1, rtol=0.02)


@torch.no_grad()
def test_sampling_dtype(monkeypatch):
    """Values, points, weights and samples are float32 in either case."""
    from gcvit_mm.layers import deform_attn as module

    seen = []

    def spy(value, sizes, locations, weights):
        out = sample_torch(value, sizes, locations, weights)
        seen.append((value.dtype, locations.dtype, weights.dtype, out.dtype))
        return out

    monkeypatch.setattr(module, 'sample_torch', spy)
    attn, _, (query, reference, feat) = drawn_attention(MAPS)
    with torch.autocast('cpu', torch.bfloat16):
        attn(query, reference, feat, MAPS)
    attn.bfloat16()(query.bfloat16(), reference, feat.bfloat16(), MAPS)
    assert seen == [(torch.float32,) * 4] * 2


def test_mmcv_op_needs_a_gpu():
    """Asking for the op where it cannot run says what to do."""
    attn, _, (query, reference, feat) = drawn_attention(MAPS, impl='mmcv')
    with pytest.raises(RuntimeError, match="build mmcv so, or set deform_impl='auto'"):
        attn(query, reference, feat, MAPS)


def test_deformable_attention_starts_on_rays():
    """Six rays, the points one to four steps out, the same on every level, all weighted alike."""
    attn = DeformableAttention(216, 6, 3, POINTS)
    s = 3**-0.5
    rays = torch.tensor([(1, 0), (s, 1), (-s, 1), (-1, 0), (-s, -1), (s, -1)])
    want = torch.stack([torch.stack([step * rays for step in (1, 2, 3, 4)], 1)] * 3, 1)
    torch.testing.assert_close(attn.sampling_offsets.bias.view(6, 3, 4, 2), want)
    for zero in (attn.sampling_offsets.weight, *attn.attention_weights.parameters()):
        assert not zero.any()
    for linear in (attn.value_proj, attn.output_proj):
        bound = (6 / 432) ** 0.5  # Xavier, uniform
        assert 0.99 * bound < linear.weight.abs().max() <= bound
        assert linear.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
        assert not linear.bias.any()


# ---------------------------------------------------------------------- start of training
def test_initialisation():
    """Standard deviations of what is drawn; the rest are ones and zeros."""
    model = GPViTAdapter('L1')
    params = dict(model.named_parameters())
    draws = {
        'pos_embed.weight': 0.02,
        'layers.1.group_token': 0.02,
        'layers.0.attn.qkv.weight': 0.02,
        'layers.1.fuse.weight': 0.02,
        'adapter.level_embed': 1.0,
        'adapter.interactions.0.extractor.ffn.fc1.weight': 0.02,
        'adapter.spm.stem.0.weight': (2 / (9 * 64)) ** 0.5,
        'adapter.spm.conv4.0.weight': (2 / (9 * 256)) ** 0.5,
        'adapter.spm.fc1.weight': (2 / 216) ** 0.5,
        'adapter.up.weight': (2 / (4 * 216)) ** 0.5,
        'adapter.interactions.0.extractor.ffn.dwconv.weight': (2 / 9) ** 0.5,
        # torch's own: uniform within 1 / sqrt(fan_in)
        'patch_embed.stem.0.weight': (3 * 49 * 3) ** -0.5,
        'layers.0.dw.weight': (9 * 3) ** -0.5,
    }
    for name, std in draws.items():
        assert params[name].std().item() == pytest.approx(std, rel=0.1), name
        assert params[name].mean().abs() < 0.15 * std, name
    for name, p in params.items():
        kept = ('patch_embed.projection', 'v_convs')  # biases of torch's own draw
        if name.endswith('gamma') or (
            name.endswith('.bias') and 'offsets' not in name and not any(k in name for k in kept)
        ):
            assert not p.any(), name
        elif p.ndim == 1 and name.endswith('weight'):
            assert (p == 1).all(), name


def test_drop_path_rates():
    """They grow linearly over twelve layers; the extractors have the last one."""
    model = GPViTAdapter(dict(ARCH, drop_path_rate=0.3))
    assert type(model).arch_zoo['L2']['drop_path_rate'] == 0.2
    for rate, chosen in ((0.3, model), (0.11, GPViTAdapter(ARCH, drop_path_rate=0.11))):
        for i, layer in enumerate(chosen.layers):
            assert layer.drop_path.drop_prob == pytest.approx(rate * i / 11)
            if i in GROUPS:
                assert layer.propagation.drop_path.drop_prob == pytest.approx(rate * i / 11)
        extractors = [m for m in chosen.modules() if isinstance(m, Extractor)]
        assert len(extractors) == 6
        assert all(m.drop_path.drop_prob == rate for m in extractors)


def test_drop_rate():
    """Behind the embeddings and in every MLP of the backbone."""
    model = GPViTAdapter(ARCH, drop_rate=0.3)
    parts = [name for name, m in model.named_modules() if isinstance(m, nn.Dropout) and m.p == 0.3]
    # the embeddings; eight local layers; two MLPs of each mixer and one behind it
    assert len(parts) == 1 + 8 + 4 * 3 and 'pos_drop' in parts
    torch.manual_seed(0)
    embedded = model.train().embed(torch.randn(1, 3, 64, 64))
    assert 0.2 < (embedded == 0).float().mean() < 0.4


@torch.no_grad()
def test_what_drop_path_drops():
    """Without branches: the stream through the convolutions, the fused input, bare attention."""
    model = GPViTAdapter(ARCH, drop_path_rate=1 - 1e-6).train()
    for p in model.parameters():
        p.add_(0.1 * torch.randn_like(p))
    x = torch.randn(2, 5, 6, C)
    local, gp = model.layers[11], model.layers[10]
    want = local.dw(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(local(x), want)
    gp.drop_path.drop_prob = gp.propagation.drop_path.drop_prob = 1 - 1e-6
    groups = torch.randn(2, 2, C)
    assert torch.equal(gp.propagation(groups), groups)
    gp.conv.eval()
    fused = F.linear(x, gp.fuse.weight[:, :C], gp.fuse.bias)
    torch.testing.assert_close(gp(x), gp.conv(fused.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    extractor, sizes = model.adapter.interactions[0].extractor, [(4, 4), (2, 2), (1, 1)]
    c, tokens = torch.randn(2, 21, C), torch.randn(2, 16, C)
    attended = extractor.attn(
        extractor.query_norm(c), centres(sizes).float(), extractor.feat_norm(tokens), sizes[:1]
    )
    torch.testing.assert_close(extractor(c, tokens, sizes), c + attended)


def test_epsilons():
    """1e-5 inside group propagation and the neck, 1e-6 elsewhere."""
    model = GPViTAdapter(ARCH)
    groups = [m for m in model.modules() if isinstance(m, GPBlock)]
    inside = {id(m) for block in groups for m in block.modules()}
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 8 * 2 + 4 * 7 + 4 * 2 + 6 * 3
    for norm in norms:
        assert norm.eps == (1e-5 if id(norm) in inside else 1e-6)
    assert {m.eps for m in GroupNeck(C).modules() if isinstance(m, nn.LayerNorm)} == {1e-5}
    other = GPViT(
        ARCH, norm_cfg=dict(type='LN', eps=1e-3), group_norm_cfg=dict(type='LN', eps=1e-2)
    )
    assert other.layers[0].norm1.eps == other.norm11.eps == 1e-3
    assert {m.eps for m in other.layers[1].modules() if isinstance(m, nn.LayerNorm)} == {1e-2}


# ---------------------------------------------------------------------- adapter
def adapter_model(**kwargs):
    """An adapter backbone with drawn weights, gammas included."""
    strides = kwargs.setdefault('out_strides', (4, 8, 16, 32))
    _, whole = released(adapter_shapes(C, LEVELS[tuple(strides)], **SMALL))
    return from_state(GPViTAdapter, whole, **kwargs)


@torch.no_grad()
def test_zero_gammas_switch_the_injectors_off():
    """With zeros the injectors' other weights have no say; with others they have."""
    outs = {}
    for gamma in (0.0, 0.5):
        for noise in (0.0, 1.0):
            model = adapter_model()
            for block in model.adapter.interactions:
                block.injector.gamma.fill_(gamma)
                for p in block.injector.attn.parameters():
                    p.add_(noise * torch.randn_like(p))
            outs[gamma, noise] = model(torch.ones(1, 3, 64, 64))
    for level in range(4):
        assert torch.equal(outs[0.0, 0.0][level], outs[0.0, 1.0][level])
        assert (outs[0.5, 0.0][level] - outs[0.5, 1.0][level]).abs().max() > 1e-3


@pytest.mark.parametrize('strides', LEVELS, ids=str)
def test_every_parameter_of_the_adapter_gets_a_gradient(strides):
    """Once gammas are not zero; biases of keys alone shift no softmax."""
    model = adapter_model(out_strides=strides).train()
    outs = model(torch.randn(2, 3, 96, 128))
    sum((out * torch.randn_like(out)).sum() for out in outs).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
        assert p.grad.any() or name.endswith('.k.bias'), name


def test_fresh_adapter_moves_gammas_first():
    """The injectors' other weights start with zero gradients, the gammas do not."""
    model = GPViTAdapter(ARCH).train()
    sum((out * torch.randn_like(out)).sum() for out in model(torch.randn(2, 3, 64, 96))).backward()
    for block in model.adapter.interactions:
        assert block.injector.gamma.grad.any()
        assert not block.injector.attn.value_proj.weight.grad.any()


def test_norms_of_convolutions():
    """Batch norm of one process by default; others on request, everywhere."""
    model = GPViTAdapter(ARCH)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    # two of the plain stem, four layers, six of the prior, four maps
    assert len(norms) == 2 + 4 + 6 + 4
    assert all(type(m) is nn.BatchNorm2d and m.eps == 1e-5 and m.momentum == 0.1 for m in norms)
    model.train()(torch.randn(2, 3, 64, 64))
    assert all(m.running_mean.any() for m in norms)

    model = GPViTAdapter(ARCH, conv_norm_cfg=dict(type='GN', num_groups=4)).train()
    kinds = [type(m) for m in model.modules()]
    assert nn.BatchNorm2d not in kinds and kinds.count(nn.GroupNorm) == len(norms)
    outs = model(torch.randn(1, 3, 32, 32))
    assert all(out.isfinite().all() for out in outs)


@pytest.mark.parametrize('cls', [GPViT, GPViTAdapter])
def test_frozen_statistics(cls):
    """Batch norms of the frozen stem and layers keep their statistics in training."""
    model = cls(ARCH, frozen_stages=2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()(torch.randn(2, 3, 64, 64))
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all(re.search('running|tracked', k) for k in moved)
    assert not any(k.startswith(('patch_embed.', 'layers.1.')) for k in moved)
    assert {k.split('.')[1] for k in moved if k.startswith('layers.')} == {'4', '7', '10'}
    if cls is GPViTAdapter:
        assert 'adapter.spm.stem.1.running_mean' in moved and 'adapter.norm_s4.running_var' in moved
    frozen = {k for k, p in model.named_parameters() if not p.requires_grad}
    assert {k.split('.')[0] for k in frozen} == {'patch_embed', 'pos_embed', 'layers'}
    assert {k.split('.')[1] for k in frozen if k.startswith('layers.')} == {'0', '1'}


def test_recomputation():
    """with_cp runs layers, injectors and extractors twice, with the same maps and gradients."""
    parts = (LocalBlock, GPBlock, Injector, Extractor)
    image = torch.randn(2, 3, 64, 64)
    runs = {}
    for with_cp in (False, True):
        model = adapter_model(with_cp=with_cp, drop_path_rate=0.3).train()
        calls = []
        for module in model.modules():
            if isinstance(module, parts):
                module.register_forward_pre_hook(lambda m, _, calls=calls: calls.append(type(m)))
        torch.manual_seed(3)
        outs = model(image)
        sum((out * (i + 1)).square().mean() for i, out in enumerate(outs)).backward()
        runs[with_cp] = outs, {n: p.grad for n, p in model.named_parameters()}, calls
    numbers = {LocalBlock: 8, GPBlock: 4, Injector: 4, Extractor: 6}
    for with_cp, (_, _, calls) in runs.items():
        assert {part: calls.count(part) for part in parts} == {
            part: number * (1 + with_cp) for part, number in numbers.items()
        }
    for a, b in zip(runs[False][0], runs[True][0]):
        assert torch.equal(a, b)
    for name, grad in runs[False][1].items():
        torch.testing.assert_close(grad, runs[True][1][name], msg=name)


def test_recomputation_of_layers():
    """With a layer go the injector and the extractors of its exchange."""
    model = adapter_model(with_cp=[0, 1, 3]).train()
    calls = []
    for module in model.modules():
        if isinstance(module, (LocalBlock, GPBlock, Injector, Extractor)):
            module.register_forward_pre_hook(lambda m, _: calls.append(m))
    sum(out.square().mean() for out in model(torch.randn(1, 3, 64, 64))).backward()
    first, second = model.adapter.interactions[:2]
    twice = {*(model.layers[i] for i in (0, 1, 3)), first.injector, first.extractor}
    twice |= {second.injector, second.extractor}
    assert {m for m in calls if calls.count(m) == 2} == twice


def test_recomputation_keeps_statistics():
    """Batch norms of the layers see every batch once, recomputed or not."""
    image = torch.randn(2, 3, 64, 64)
    states = []
    for with_cp in (False, True):
        model = adapter_model(with_cp=with_cp).train()
        sum(out.square().mean() for out in model(image)).backward()
        states.append(model.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_other_sizes_of_the_adapter():
    """Channels of its convolutions, points, and hidden channels are arguments."""
    kwargs = dict(hidden_dims=16, num_points=2, adapter_mlp_ratio=0.5, num_interactions=2)
    model = GPViTAdapter(ARCH, **kwargs).eval()
    shapes = {k.replace('adapter.', ''): tuple(p.shape) for k, p in model.named_parameters()}
    assert shapes['spm.stem.0.weight'] == (16, 3, 3, 3)
    assert shapes['spm.conv4.0.weight'] == (64, 64, 3, 3)
    assert shapes['interactions.0.injector.attn.sampling_offsets.bias'] == (6 * 3 * 2 * 2,)
    assert shapes['interactions.1.extractor.attn.attention_weights.bias'] == (6 * 2,)
    assert shapes['interactions.1.extra_extractors.1.ffn.fc1.weight'] == (C // 2, C)
    assert not any('interactions.2' in name or '0.extra_extractors' in name for name in shapes)
    order = []
    for name, module in model.named_modules():
        if isinstance(module, (LocalBlock, GPBlock, Injector, Extractor)):
            module.register_forward_hook(lambda *_, name=name: order.append(name.split('.')[-1]))
    model(torch.zeros(1, 3, 32, 32))
    assert order == [
        *('injector', *'012345', 'extractor', 'injector', *'6789', '10', '11'),
        *('extractor', '0', '1'),
    ]


@pytest.mark.parametrize('strides', [(8, 4), (2,), (), (4, 4), (4, 64)], ids=str)
def test_bad_strides(strides):
    """Strides out of order, twice, none or unknown are named."""
    with pytest.raises(ValueError, match=r'out_strides must be some of \(4, 8, 16, 32\), asc'):
        GPViTAdapter(ARCH, out_strides=strides)


@torch.no_grad()
def test_some_strides():
    """A choice of maps equals those maps among all four."""
    full = adapter_model()
    image = torch.randn(1, 3, 50, 70)
    outs = dict(zip((4, 8, 16, 32), full(image)))
    for strides in ((4, 16), (8,), (16, 32)):
        some = GPViTAdapter(ARCH, out_strides=strides).eval()
        missing, _ = some.load_state_dict(full.state_dict(), strict=False)
        assert not missing
        for stride, out in zip(strides, some(image)):
            assert torch.equal(out, outs[stride])


# ---------------------------------------------------------------------- group propagation
@torch.no_grad()
def test_groups_do_not_depend_on_order_or_neighbours():
    """Groups of permuted tokens are the same, what comes back is permuted; images are alone."""
    grouping, ungrouping = (cls(C, 6, dict(type='LN')).double() for cls in (Grouping, Ungrouping))
    for module in (grouping, ungrouping):
        for p in module.parameters():
            p.add_(0.5 * torch.randn_like(p))
    tokens, groups = (torch.randn(3, n, C, dtype=torch.double) for n in (20, 4))
    order = torch.randperm(20)
    together = grouping(groups, tokens)
    torch.testing.assert_close(grouping(groups, tokens[:, order]), together)
    handed = ungrouping(tokens, together)
    torch.testing.assert_close(ungrouping(tokens[:, order], together), handed[:, order])
    torch.testing.assert_close(ungrouping(tokens, together.flip(1)), handed)
    for b in range(3):
        one = slice(b, b + 1)
        torch.testing.assert_close(grouping(groups[one], tokens[one]), together[one])
        torch.testing.assert_close(ungrouping(tokens[one], together[one]), handed[one])


@torch.no_grad()
def test_propagation_switches():
    """Without propagation groups come back as collected; the mixer is that of the reference."""
    state = state_of(backbone_shapes(C, **SMALL))
    model = from_state(GPViT, {f'backbone.{k}': v for k, v in state.items()}).double()
    weights = sub(double(state), 'layers.1.')
    tokens = torch.randn(2, 30, C, dtype=torch.double)
    block = model.layers[1]
    groups = block.group_attn(block.group_token.expand(2, -1, -1), tokens)
    torch.testing.assert_close(groups, group(weights, tokens))
    torch.testing.assert_close(
        block.propagation(groups), mix(sub(weights, 'mixer.layers.0.'), groups)
    )
    bare = GPViT(ARCH, propagation='none').layers[1]
    assert torch.equal(bare.propagation(groups), groups)
    attending = GPViT(ARCH, propagation='attention').double().eval().layers[1].propagation
    order = torch.randperm(8)
    torch.testing.assert_close(attending(groups[:, order]), attending(groups)[:, order])
    changed = groups.clone()
    changed[:, 0] = changed[:, 0].flip(-1)
    assert (attending(changed) - attending(groups))[:, 1:].abs().amax(-1).min() > 1e-9


def test_groups_are_chosen():
    """By layer or in order; a layer without groups is a local one."""
    model = GPViT(ARCH, groups={'0': 3, 11: 5})
    kinds = {i: type(layer) for i, layer in enumerate(model.layers)}
    assert [i for i, kind in kinds.items() if kind is GPBlock] == [0, 11]
    assert model.layers[0].group_token.shape == (1, 3, C)
    model = GPViT(ARCH, groups=(2, 3, 5, 6))
    assert [model.layers[i].group_token.shape[1] for i in (1, 4, 7, 10)] == [2, 3, 5, 6]


# ---------------------------------------------------------------------- what it is compared with
@pytest.mark.parametrize('kind, shift', [('window', 0), ('shift', 3)])
@pytest.mark.parametrize('bias', [False, True])
@torch.no_grad()
def test_windows_are_those_of_swin(kind, shift, bias):
    """With its position bias or at zero, on maps that windows divide."""
    swin = pytest.importorskip('mmdet.models.backbones.swin')
    model = GPViT(ARCH, local_attn='window', global_attn='shift', rel_pos_bias=bias)
    ours = model.layers[0 if kind == 'window' else 1].attn
    theirs = swin.ShiftWindowMSA(C, 12, window_size=7, shift_size=shift).eval()
    for p in ours.parameters():
        p.copy_(0.2 * torch.randn_like(p))  # Swin hides tokens by -100: logits must be small
    table = theirs.w_msa.relative_position_bias_table
    table.copy_(ours.rel_pos.relative_position_bias_table) if bias else table.zero_()
    theirs.w_msa.qkv.load_state_dict(ours.qkv.state_dict())
    theirs.w_msa.proj.load_state_dict(ours.proj.state_dict())
    x = torch.randn(2, 14, 21, C)
    want = theirs(x.flatten(1, 2), (14, 21)).view(x.shape)
    torch.testing.assert_close(ours(x), want, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_global_attention_is_that_of_torch():
    """Among all tokens of a map."""
    ours = GPViT(ARCH, global_attn='attention').layers[4].attn
    theirs = nn.MultiheadAttention(C, 12, batch_first=True)
    for p in ours.parameters():
        p.copy_(torch.randn_like(p))
    theirs.in_proj_weight.copy_(ours.qkv.weight)
    theirs.in_proj_bias.copy_(ours.qkv.bias)
    theirs.out_proj.load_state_dict(ours.proj.state_dict())
    x = torch.randn(2, 5, 7, C)
    tokens = x.flatten(1, 2)
    want = theirs(tokens, tokens, tokens, need_weights=False)[0].view(x.shape)
    torch.testing.assert_close(ours(x), want, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_conv_layers():
    """Two convolutions with a norm and an activation between them, and one residual."""
    layer = GPViT(ARCH, global_attn='conv').eval().layers[7]
    for p in layer.parameters():
        p.copy_(torch.randn_like(p))
    x = torch.randn(2, 5, 6, C)
    y = F.conv2d(x.permute(0, 3, 1, 2), layer.conv1.weight, padding=1)
    y = y / (1 + 1e-5) ** 0.5 * layer.norm.weight[:, None, None] + layer.norm.bias[:, None, None]
    y = F.conv2d(F.gelu(y), layer.conv2.weight, layer.conv2.bias, padding=1)
    torch.testing.assert_close(layer(x), x + y.permute(0, 2, 3, 1), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(local_attn=local_attn, global_attn=global_attn)
        for local_attn in ('lepe', 'window')
        for global_attn in ('attention', 'conv', 'shift', 'none')
    ]
    + [dict(propagation='attention'), dict(propagation='none')],
    ids=str,
)
@pytest.mark.parametrize('cls', [GPViT, GPViTAdapter])
def test_ablations_run(cls, kwargs):
    """Every switch trains, at a size that nothing divides."""
    model = cls(ARCH, **kwargs).train()
    outs = model(torch.randn(2, 3, 75, 51))
    assert all(out.isfinite().all() for out in outs)
    sum((out * torch.randn_like(out)).sum() for out in outs).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


# ---------------------------------------------------------------------- arguments
@pytest.mark.parametrize(
    'cls, kwargs, message',
    [
        (GPViT, dict(local='lepe'), "GPViT has no argument 'local'"),
        (GPViT, dict(out_strides=(8,)), "GPViT has no argument 'out_strides'"),
        (GPViTAdapter, dict(out_indices=(11,)), "GPViTAdapter has no argument 'out_indices'"),
        (GPViTAdapter, dict(out_stride=(8,)), r"did you mean 'out_strides'\?"),
        (GPViT, dict(arch='L5'), "no arch 'L5'; it knows: L1, L2, L3, L4, D216"),
        (GPViT, dict(patch_size=7), 'patch_size must be an even number of pixels, got 7'),
        (GPViT, dict(arch=dict(embed_dims=24)), 'missing: .*depth.*stripe'),
        (GPViT, dict(arch=dict(ARCH, num_heads=5)), r'num_heads \(5\) must be even'),
        (GPViT, dict(arch=dict(ARCH, num_heads=16)), r'divide embed_dims \(24\)'),
        (GPViT, dict(local_attn='swin'), "local_attn must be one of .*, got 'swin'"),
        (GPViT, dict(global_attn='window'), "global_attn must be one of .*, got 'window'"),
        (GPViT, dict(propagation='mlp'), "propagation must be one of .*, got 'mlp'"),
        (GPViT, dict(groups={12: 4}), r'some of the layers 0\.\.11, .* got \{12: 4\}'),
        (GPViT, dict(groups=(8, 4)), r'or be 4 such numbers, got \(8, 4\)'),
        (GPViT, dict(groups=(0, 4, 4, 4)), 'groups must give a positive number'),
        (GPViT, dict(groups=4), 'groups must give a positive number .* got 4'),
        (GPViT, dict(img_size=(224, 224)), 'img_size must be the side'),
        (GPViTAdapter, dict(num_interactions=0), "must divide the arch's depth of 12, got 0"),
        (GPViT, dict(out_indices=(12,)), r'out_indices must be ascending'),
        (GPViT, dict(out_indices=(5, 2)), r'out_indices must be ascending'),
        (GPViT, dict(frozen_stages=13), 'frozen_stages must be between -1 and 12'),
        (GPViT, dict(norm_cfg=dict(type='BN')), 'does not normalise the last axis'),
        (GPViTAdapter, dict(num_interactions=5), "must divide the arch's depth of 12, got 5"),
        (GPViTAdapter, dict(deform_impl='cuda'), "deform_impl must be one of .*, got 'cuda'"),
    ],
    ids=str,
)
def test_bad_arguments(cls, kwargs, message):
    """One line that names the argument and what fits."""
    with pytest.raises((TypeError, ValueError), match=message) as error:
        cls(**{'arch': ARCH, **kwargs})
    assert '\n' not in str(error.value)


def test_out_indices_from_the_end():
    """Layer 1 and negative indices work, and the caller's list stays as it was."""
    indices = [1, -1]
    model = GPViT(ARCH, out_indices=indices)
    assert indices == [1, -1] and model.out_indices == (1, 11)
    assert [tuple(out.shape) for out in model(torch.zeros(1, 3, 16, 24))] == 2 * [(1, C, 2, 3)]
