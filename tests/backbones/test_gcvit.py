"""The GC ViT backbone: its numbers, its arguments, and what training loops expect of it."""

import functools
import inspect
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gcvit_mm import GCViT
from gcvit_mm.backbones.base import BackboneArgs
from gcvit_mm.checkpoints import convert_state_dict
from support.gcvit_reference import (
    check_images,
    draw,
    nvlabs_classifier_state,
    nvlabs_detection_state,
    nvlabs_name,
)

ROOT = Path(__file__).resolve().parents[2]
USUAL = (7, 7, 14, 7)
SUBSETS = [s for n in (1, 2, 3, 4) for s in itertools.combinations(range(4), n)]


# ---------------------------------------------------------------------- helpers
def arch(**changes):
    """A small arch of the same shape as the others."""
    settings = dict(
        embed_dims=16,
        depths=(2, 2, 2, 2),
        num_heads=(1, 2, 4, 8),
        mlp_ratio=2.0,
        layer_scale=None,
        window_size=USUAL,
        drop_path_rate=0.0,
    )
    return {**settings, **changes}


def fill(model):
    """Draw weights that all matter; the fresh ones are too small to tell anything."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(draw(nvlabs_name(name), p.shape))
    return model


def blocks_of(model):
    """All blocks, first to last."""
    return [block for stage in model.stages for block in stage.blocks]


def count(module):
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


@functools.lru_cache(maxsize=None)
def on_meta(name, **kwargs):
    """A model without memory, to look at; shared by the tests."""
    with torch.device('meta'):
        return GCViT(name, **kwargs)


def different_images(height, width):
    """Noise, stripes and a half-plane: a query that mixes images shows clearly on these."""
    x = torch.zeros(3, 3, height, width)
    x[:2] = check_images(height, width)
    x[2, :, :, width // 2 :] = 2
    return x


def backbone_part(state):
    """The weights of the backbone, without their prefix."""
    prefix = 'backbone.'
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}


def loss_of(outs):
    """A number that depends on every entry of every map."""
    generator = torch.Generator().manual_seed(1)
    return sum((out * torch.randn(out.shape, generator=generator)).sum() for out in outs)


def assert_maps_close(got, want, atol):
    """Compare the maps of all stages."""
    assert len(got) == len(want)
    for stage, (a, b) in enumerate(zip(got, want)):
        torch.testing.assert_close(
            a, b, atol=atol, rtol=0, msg=lambda text, i=stage: f'output {i}: {text}'
        )


# ---------------------------------------------------------------------- parameter counts
# arch: million parameters of the backbone with windows 7/7/14/7, with windows 24
DENSE_COUNTS = {
    'xxtiny': (11.48, 11.64),
    'xtiny': (19.47, 19.75),
    'tiny': (27.71, 28.14),
    'tiny2': (34.02, 34.58),
    'small': (50.33, 50.97),
    'small2': (67.85, 68.57),
    'base': (89.30, 90.16),
    'large': (200.54, 201.84),
}
CLASSIFIER_COUNTS = {
    'xxtiny': 11_995_428,
    'xtiny': 19_981_294,
    'tiny': 28_221_974,
    'tiny2': 34_535_654,
    'small': 51_092_173,
    'small2': 68_615_197,
    'base': 90_320_836,
    'large': 202_075_570,
    'large_384': 202_860_610,
    'large_512': 203_795_362,
}
# Archs of the rows that Table 5 of v1 has 'tailored' to 28 M, and the queries of their blocks.
TAILORED = {'tiny_no_gsa': 'none', 'tiny_no_share': 'own'}


@pytest.mark.parametrize('name', DENSE_COUNTS)
def test_parameters_of_dense_backbones(name):
    """As counted in the authors' detection code."""
    usual, w24 = DENSE_COUNTS[name]
    assert count(on_meta(name)) / 1e6 == pytest.approx(usual, abs=0.01)
    assert count(on_meta(name, window_size=24)) / 1e6 == pytest.approx(w24, abs=0.01)


@pytest.mark.parametrize('name', CLASSIFIER_COUNTS)
def test_parameters_of_classifiers(name):
    """With a linear head on the last map: exactly those of the authors' classifiers."""
    model = on_meta(name, out_indices=(3,))
    head = (model.embed_dims[-1] + 1) * 1000
    assert count(model) + head == CLASSIFIER_COUNTS[name]


def test_every_variant_is_counted():
    """A new arch needs a number here."""
    assert set(GCViT.arch_zoo) == set(CLASSIFIER_COUNTS) | set(TAILORED)


@pytest.mark.parametrize('name', TAILORED)
def test_tailored_archs(name):
    """As few blocks less than T in stage 2 as give the printed 28 M: one more makes it 29 M."""
    blocks = GCViT.arch_zoo[name]['depths'][2]
    arch = dict(GCViT.arch_zoo['tiny'], depths=(3, 4, blocks + 1, 5))
    with torch.device('meta'):
        longer = GCViT(arch, global_query=TAILORED[name], out_indices=(3,))
    counts = [count(on_meta(name, out_indices=(3,))), count(longer)]
    assert [round((c + 513 * 1000) / 1e6) for c in counts] == [28, 29]


@pytest.mark.parametrize('name', TAILORED)
def test_tailored_archs_bring_their_queries(name):
    """Unless others are asked for."""
    kinds = {kind: count(on_meta(name, global_query=kind)) for kind in ('shared', 'own', 'none')}
    assert count(on_meta(name)) == kinds[TAILORED[name]]
    assert len(set(kinds.values())) == 3


@pytest.mark.parametrize(
    'kwargs, millions',
    [
        (dict(), 28.22),
        (dict(global_query='none'), 28.81),
        (dict(global_query='own'), 29.48),
        (dict(rel_pos_bias=False), 28.09),
        (dict(overlap_patches=False), 28.20),
    ],
    ids=['tiny', 'no global attention', 'own queries', 'no position bias', 'no overlap'],
)
def test_parameters_of_ablations(kwargs, millions):
    """The rows of the paper's Tables 5 and S.1, as classifiers."""
    model = on_meta('tiny', out_indices=(3,), **kwargs)
    assert (count(model) + 513 * 1000) / 1e6 == pytest.approx(millions, abs=0.01)


def test_embed_dims_and_out_channels():
    """Necks read the channels of the maps from the backbone."""
    model = on_meta('small', out_indices=(1, 3))
    assert model.embed_dims == (96, 192, 384, 768)
    assert model.out_channels == (192, 768)


# ---------------------------------------------------------------------- check numbers
# weights and images are drawn from names, the numbers come from the authors' code
CLASSIFIER_LOGITS = {
    'xxtiny': (
        [[2.90563, -0.05652, -0.41510, -0.47052], [3.19974, 0.65259, -0.37059, -0.41255]],
        0.962572,
    ),
    'small': (
        [[-1.44428, 0.48484, -1.21822, -1.31703], [-0.57333, -0.05365, -0.15780, -0.56328]],
        0.913930,
    ),
}


@pytest.mark.parametrize('name', CLASSIFIER_LOGITS)
@torch.no_grad()
def test_check_numbers_of_classifiers(name):
    """Logits at 224, two very different images in one batch."""
    model = GCViT(name, out_indices=(3,)).eval()
    state = convert_state_dict(nvlabs_classifier_state(model))
    model.load_state_dict(backbone_part(state))
    head = {k: state[f'head.fc.{k}'] for k in ('weight', 'bias')}
    features = model(check_images(224, 224))[0].mean((2, 3))
    logits = nn.functional.linear(features, **head)
    want, std = CLASSIFIER_LOGITS[name]
    torch.testing.assert_close(logits[:, :4], torch.tensor(want), atol=2e-5, rtol=0)
    assert logits.std().item() == pytest.approx(std, abs=2e-5)


# per level: output[0, :3, 0, 0] and output[1, :3, -1, -1] at 160x224
DETECTION_W24 = [
    [[1.05562, 0.83539, -1.26926], [-1.58790, -0.60653, 0.83379]],
    [[0.29697, 0.26305, 0.43949], [0.07459, 0.85473, -0.14365]],
    [[1.60874, 0.47009, 1.99979], [1.01988, 0.40065, 0.31218]],
    [[-0.51698, -0.96002, 1.44393], [-2.05432, -0.59945, 0.06449]],
]
DETECTION_USUAL = [
    [[0.98548, 0.87766, -1.28593], [-1.16431, -0.57959, 0.81567]],
    [[-0.41258, 0.80747, 0.29134], [-0.13430, 0.12697, 0.25876]],
    [[1.86644, -0.45835, 1.17055], [0.63600, -0.59724, 0.28434]],
    [[-0.75691, 0.00101, 1.57548], [-1.51770, 0.31045, 1.02137]],
]
CONVERTED_W24 = {
    0: [[0.86947, 1.03241, -1.03969], [-1.60605, -0.66299, 0.81428]],
    3: [[-0.84755, -0.94449, 1.76573], [-2.54767, -0.44167, 0.07443]],
}


def assert_corners(out, want):
    """Compare the first and the last place of a map."""
    got = torch.stack([out[0, :3, 0, 0], out[1, :3, -1, -1]])
    torch.testing.assert_close(got, torch.tensor(want), atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    'kwargs, want',
    [
        (dict(window_size=24, query_pools=(3, 2, 1, 0)), DETECTION_W24),
        (dict(window_size=(7, 7, 14, 7), query_pools=(3, 2, 0, 0)), DETECTION_USUAL),
        (dict(), DETECTION_USUAL),
    ],
    ids=['24', '7-7-14-7', 'defaults'],
)
@torch.no_grad()
def test_check_numbers_of_dense_backbones(kwargs, want):
    """All levels at 160x224, where windows are padded and queries resized."""
    model = GCViT('xxtiny', **kwargs).eval()
    state = convert_state_dict(nvlabs_detection_state(model))
    model.load_state_dict(backbone_part(state))
    outs = model(check_images(160, 224))
    assert [tuple(out.shape[1:]) for out in outs] == [
        (64, 40, 56),
        (128, 20, 28),
        (256, 10, 14),
        (512, 5, 7),
    ]
    for out, corners in zip(outs, want):
        assert_corners(out, corners)


@torch.no_grad()
def test_check_numbers_of_a_classifier_with_windows_of_24():
    """A 7/7/14/7 classifier in a model with windows of 24: resized tables and all."""
    model = GCViT('xxtiny', window_size=24, query_pools=(3, 2, 1, 0)).eval()
    state = convert_state_dict(nvlabs_classifier_state(GCViT('xxtiny', out_indices=(3,))))
    state = {k: v for k, v in backbone_part(state).items() if not k.startswith('norm3')}
    incompatible = model.load_state_dict(state, strict=False)
    assert not incompatible.unexpected_keys
    assert {k.partition('.')[0] for k in incompatible.missing_keys} == {
        f'norm{i}' for i in range(4)
    }
    table = model.stages[0].blocks[0].attn.rel_pos.relative_position_bias_table
    got = torch.cat([table[:4, 0], table[1104]])
    want = torch.tensor([-0.00071, -0.00038, 0.01255, 0.04847, 1.26182, 0.39542])
    torch.testing.assert_close(got, want, atol=2e-5, rtol=0)
    outs = model(check_images(160, 224))
    for level, corners in CONVERTED_W24.items():
        assert_corners(outs[level], corners)


@torch.no_grad()
def test_equals_timm():
    """timm's implementation with its own keys, one image at a time."""
    timm = pytest.importorskip('timm')
    theirs = timm.create_model('gcvit_xxtiny', pretrained=False).eval()
    for name, p in theirs.named_parameters():
        p.copy_(draw(name, p.shape))
    state = convert_state_dict(theirs.state_dict())
    ours = GCViT('xxtiny', out_indices=(3,)).eval()
    ours.load_state_dict(backbone_part(state), strict=True)
    for image in different_images(224, 224):
        want = theirs.forward_features(image[None])
        assert_maps_close(ours(image[None]), (want,), 1e-5)


# ---------------------------------------------------------------------- sizes
@pytest.mark.parametrize(
    'kwargs, size',
    [
        *((dict(window_size=24), size) for size in ((32, 32), (33, 47), (65, 97))),
        *((dict(overlap_patches=False), size) for size in ((32, 32), (33, 47), (65, 97))),
        (dict(window_size=7), (801, 1333)),
    ],
    ids=str,
)
@torch.no_grad()
def test_any_size_of_other_models(kwargs, size):
    """Windows larger than the map, patches side by side, and an image as COCO has them."""
    outs = fill(GCViT(arch(), **kwargs)).eval()(torch.randn(2, 3, *size))
    for i, out in enumerate(outs):
        assert tuple(out.shape[2:]) == tuple(-(-side // 2 ** (i + 2)) for side in size)
        assert out.isfinite().all()


# ---------------------------------------------------------------------- batches
@pytest.mark.parametrize(
    'kwargs, size',
    [
        (dict(), (112, 168)),
        (dict(), (65, 97)),
        (dict(window_size=24, query_pools=(3, 2, 1, 0)), (128, 224)),
        (dict(global_query='own'), (112, 168)),
        (dict(mask_padding=True), (65, 97)),
        (dict(window_size=[(7, 5), (5, 7), (4, 6), 3]), (112, 168)),
    ],
    ids=['usual', 'odd', 'windows 24', 'own queries', 'masked', 'rectangular'],
)
@torch.no_grad()
def test_batch_equals_its_images_one_by_one(kwargs, size):
    """The global query belongs to its own image, in every stage."""
    model = fill(GCViT(arch(depths=(2, 2, 4, 2)), **kwargs)).eval()
    x = different_images(*size)
    singles = zip(*(model(image[None]) for image in x))
    assert_maps_close(model(x), [torch.cat(maps) for maps in singles], 1e-5)


class NoStem(nn.Module):
    """Takes a map for an image, so that nothing but the blocks connects its places."""

    def forward(self, x):
        """Map (B, C, H, W) -> (B, H, W, C)."""
        return x.permute(0, 2, 3, 1)


@torch.no_grad()
def test_global_query_sees_the_whole_map():
    """A far corner changes the first window of a stage, but not where all blocks are local."""
    x = torch.randn(1, 16, 28, 42)
    changed = x.clone()
    changed[..., -7:, -7:] += 3
    gaps = {}
    for global_query in ('shared', 'own', 'none'):
        kwargs = dict(in_channels=16, out_indices=(0,), global_query=global_query)
        model = fill(GCViT(arch(), **kwargs)).eval()
        model.patch_embed = NoStem()
        gap = model(x)[0] - model(changed)[0]
        gaps[global_query] = gap[..., :7, :7].abs().max().item()
    assert gaps['shared'] > 1e-3 and gaps['own'] > 1e-3
    assert gaps['none'] == 0


# ---------------------------------------------------------------------- outputs, gradients
@pytest.mark.parametrize(
    'kwargs',
    [
        dict(global_query='own'),
        dict(global_query='none'),
        dict(rel_pos_bias=False),
        dict(overlap_patches=False),
        dict(arch=arch(layer_scale=1e-5)),
        dict(arch=arch(depths=(1, 1, 2, 1))),
        dict(mask_padding=True),
    ],
    ids=str,
)
def test_every_parameter_of_other_models_gets_a_gradient(kwargs):
    """No ablation leaves a part without use."""
    model = fill(GCViT(**{'arch': arch(), **kwargs}))
    loss_of(model(torch.randn(2, 3, 64, 96))).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@torch.no_grad()
def test_outputs_are_normalised():
    """Fresh output norms give every place mean 0 and deviation 1 over its channels."""
    for out in GCViT(arch()).eval()(torch.randn(1, 3, 64, 64)):
        torch.testing.assert_close(out.mean(1), torch.zeros(out[:, 0].shape), atol=1e-4, rtol=0)
        assert (out.std(1, unbiased=False) - 1).abs().max() < 0.05


# ---------------------------------------------------------------------- freezing
def test_frozen_norms_of_requested_stages_only():
    """A frozen stage without output has no output norm, and that is fine."""
    model = GCViT(arch(), frozen_stages=2, out_indices=(1, 3)).train()
    assert not model.norm1.weight.requires_grad and not model.norm1.training
    assert model.norm3.weight.requires_grad and model.norm3.training
    assert not hasattr(model, 'norm0')


@pytest.mark.parametrize('stages', [-2, 5])
def test_frozen_stages_out_of_range(stages):
    """The error names the range."""
    with pytest.raises(ValueError, match=rf'between -1 and 4 .*got {stages}'):
        GCViT(arch(), frozen_stages=stages)


def test_frozen_stages_beyond_what_is_built():
    """Stages that out_indices leaves out cannot be frozen."""
    assert GCViT(arch(), out_indices=(1,), frozen_stages=2).frozen_stages == 2
    with pytest.raises(ValueError, match=r'between -1 and 2 .*out_indices=\(1,\)'):
        GCViT(arch(), out_indices=(1,), frozen_stages=3)


# ---------------------------------------------------------------------- checkpointing
def pass_with_gradients(model, x):
    """Maps and gradients of one pass under a fixed seed."""
    torch.manual_seed(3)
    model.zero_grad()
    outs = model(x)
    loss_of(outs).backward()
    return outs, {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize('global_query', ['shared', 'own', 'none'])
def test_checkpointing_changes_nothing(global_query):
    """Equal outputs and gradients with random depth and dropout, whoever asks."""
    kwargs = dict(drop_path_rate=0.5, attn_drop_rate=0.25, global_query=global_query)
    plain = fill(GCViT(arch(), **kwargs))
    saving = fill(GCViT(arch(), with_cp=True, **kwargs))
    x = torch.randn(4, 3, 64, 64)
    outs, grads = pass_with_gradients(plain, x)
    saved_outs, saved_grads = pass_with_gradients(saving, x)
    assert_maps_close(saved_outs, outs, 1e-6)
    for name, grad in grads.items():
        torch.testing.assert_close(
            saved_grads[name], grad, atol=1e-4, rtol=1e-4, msg=lambda t, n=name: f'{n}: {t}'
        )


# ---------------------------------------------------------------------- arguments
@pytest.mark.parametrize('eps', [None, 1e-6])
def test_norm_cfg_reaches_every_norm(eps):
    """Also the output norms; the default eps is 1e-5."""
    model = GCViT(arch(), norm_cfg=eps and dict(type='LN', eps=eps))
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 2 * 8 + 2 * 4 + 4
    assert {norm.eps for norm in norms} == {eps or 1e-5}


@pytest.mark.parametrize('cfg', [dict(type='BN'), dict(type='GN', num_groups=4)], ids=str)
def test_norms_over_other_axes_are_refused(cfg):
    """The error names the type and what to use."""
    with pytest.raises(ValueError, match=f"norm_cfg type '{cfg['type']}'.*use 'LN'"):
        GCViT(arch(), norm_cfg=cfg)


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (1,)])
def test_drop_path_rates(out_indices):
    """They grow linearly over the blocks of all stages, built or not."""
    model = GCViT(arch(depths=(3, 4, 2, 1)), drop_path_rate=0.3, out_indices=out_indices)
    rates = [block.drop_path.drop_prob for block in blocks_of(model)]
    assert len(rates) == (10 if out_indices[-1] == 3 else 7)
    np.testing.assert_allclose(rates, np.linspace(0, 0.3, 10)[: len(rates)], atol=1e-12)


@pytest.mark.parametrize(
    'name, rate',
    [
        ('xxtiny', 0.2),
        ('xtiny', 0.2),
        ('tiny', 0.2),
        ('tiny2', 0.25),
        ('small', 0.3),
        ('small2', 0.35),
        ('base', 0.5),
        ('large', 0.5),
        ('large_384', 0.1),
        ('large_512', 0.1),
    ],
)
def test_drop_path_rate_of_the_arch(name, rate):
    """Without an argument the published rate applies."""
    assert blocks_of(on_meta(name))[-1].drop_path.drop_prob == pytest.approx(rate)


def test_drop_path_rate_of_zero_is_not_the_default():
    """An explicit 0 switches it off, whatever the arch says."""
    model = GCViT(arch(drop_path_rate=0.4), drop_path_rate=0)
    assert {block.drop_path.drop_prob for block in blocks_of(model)} == {0}
    assert blocks_of(GCViT(arch(drop_path_rate=0.4)))[-1].drop_path.drop_prob == 0.4


def test_layer_scale():
    """1e-5 in the wide variants, absent in the tiny family."""
    for block in blocks_of(GCViT(arch(layer_scale=1e-5))):
        for gamma in (block.gamma1, block.gamma2):
            torch.testing.assert_close(gamma.detach(), torch.full_like(gamma, 1e-5))
    for name in ('small', 'small2', 'base', 'large', 'large_384', 'large_512'):
        assert all(block.gamma1 is not None for block in blocks_of(on_meta(name)))
    for name in ('xxtiny', 'xtiny', 'tiny', 'tiny2'):
        names = [n for n, _ in on_meta(name).named_parameters()]
        assert not any('gamma' in n for n in names)


@pytest.mark.parametrize(
    'window_size, want',
    [
        (None, [(7, 7), (7, 7), (14, 14), (7, 7)]),
        (16, [(16, 16)] * 4),
        ((24, 12, 14, 7), [(24, 24), (12, 12), (14, 14), (7, 7)]),
        ([[4, 6], 5, (3, 2), 7], [(4, 6), (5, 5), (3, 2), (7, 7)]),
    ],
    ids=['arch', 'int', 'per stage', 'rectangular'],
)
def test_window_size(window_size, want):
    """One int, or an int or a pair for every stage; blocks and query agree."""
    model = GCViT(arch(), window_size=window_size)
    for stage, size in zip(model.stages, want):
        for block in stage.blocks:
            assert block.attn.window_size == size
            rows = (2 * size[0] - 1) * (2 * size[1] - 1)
            assert block.attn.rel_pos.relative_position_bias_table.shape[0] == rows
        assert stage.query_generator.window_size == size


@pytest.mark.parametrize('window_size', [(7, 7), (7, 7, 7), (7, 7, 0, 7), -1, (7, (7, 7, 7), 7, 7)])
def test_window_size_that_makes_no_sense(window_size):
    """The error names the argument."""
    with pytest.raises(ValueError, match='window_size'):
        GCViT(arch(), window_size=window_size)


@torch.no_grad()
def test_query_pools():
    """Each pooling halves the query's map; another number changes that stage alone."""
    x = torch.randn(1, 3, 112, 168)
    usual = fill(GCViT(arch(), query_pools=(3, 2, 0, 0))).eval()
    other = fill(GCViT(arch(), query_pools=(3, 2, 1, 0))).eval()
    default = fill(GCViT(arch())).eval()
    assert [stage.query_generator.num_pools for stage in other.stages] == [3, 2, 1, 0]
    a, b = usual(x), other(x)
    assert_maps_close(a, default(x), 0)
    assert_maps_close(a[:2], b[:2], 0)
    assert (a[2] - b[2]).abs().max() > 1e-3 and (a[3] - b[3]).abs().max() > 1e-3


@pytest.mark.parametrize('pools, side', [(0, 7), (1, 14), (2, 28), (3, 56)])
@torch.no_grad()
def test_query_at_the_design_size_is_not_resized(pools, side):
    """The first blocks are followed by a pooling; what is 7x7 then is taken head by head."""
    model = fill(GCViT(arch(num_heads=(2, 2, 4, 8)), query_pools=(pools, 0, 0, 0))).eval()
    generator = model.stages[0].query_generator
    x = torch.randn(2, side, side, 16)
    y = x.permute(0, 3, 1, 2)
    for i, block in enumerate(generator.blocks):
        y = nn.functional.max_pool2d(block(y), 3, 2, 1) if i < pools else block(y)
    query = generator(x)
    assert query.shape == (2, 2, 49, 8)
    for head, token in itertools.product(range(2), range(49)):
        want = y[:, head * 8 : head * 8 + 8, token // 7, token % 7]
        torch.testing.assert_close(query[:, head, token], want, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    'pools, message',
    [
        ((4, 2, 0, 0), r'query_pools\[0\] must be within 0\.\.3, got 4'),
        ((3, 3, 0, 0), r'query_pools\[1\] must be within 0\.\.2, got 3'),
        ((3, 2, 2, 0), r'query_pools\[2\] must be within 0\.\.1, got 2'),
        ((3, 2, 0, -1), r'query_pools\[3\] must be within 0\.\.1, got -1'),
        ((3, 2, 0), 'query_pools needs one value'),
    ],
)
def test_query_pools_out_of_range(pools, message):
    """The error names the stage and the range."""
    with pytest.raises(ValueError, match=message):
        GCViT(arch(), query_pools=pools)


def test_global_query_is_one_of_three():
    """The error names them."""
    with pytest.raises(ValueError, match="'shared', 'own', 'none'.*got 'mine'"):
        GCViT(arch(), global_query='mine')


def test_global_query_none_is_local_throughout():
    """All blocks project their own queries, and no generator is left."""
    model = GCViT(arch(), global_query='none')
    assert all(block.attn.own_query for block in blocks_of(model))
    assert not any('query_generator' in name for name, _ in model.named_parameters())


def test_global_query_own_has_a_generator_a_block():
    """Every global block has one, no stage and no local block has."""
    model = GCViT(arch(depths=(4, 2, 2, 2)), global_query='own')
    assert [len(stage.blocks) for stage in model.stages] == [4, 2, 2, 2]
    for stage in model.stages:
        assert stage.query_generator is None
        for j, block in enumerate(stage.blocks):
            assert (block.query_generator is not None) == (j % 2 == 1)
            assert block.attn.own_query == (j % 2 == 0)


@pytest.mark.parametrize(
    'kwargs, close',
    [
        (dict(windows_size=7), 'window_size'),
        (dict(drop_path=0.1), 'drop_path_rate'),
        (dict(out_indexes=(0,)), 'out_indices'),
    ],
    ids=str,
)
def test_unknown_arguments_are_errors(kwargs, close):
    """A typo names what was probably meant, and everything that is known."""
    with pytest.raises(TypeError) as error:
        GCViT(arch(), **kwargs)
    message = str(error.value)
    assert f"no argument '{next(iter(kwargs))}' (did you mean '{close}'?)" in message
    own = [name for name in inspect.signature(GCViT).parameters if name != 'common']
    known = [*own, *BackboneArgs.__annotations__]
    assert message.endswith('; it knows: ' + ', '.join(known))
    assert {'arch', 'window_size', 'query_pools', 'init_cfg'} <= set(known)


def test_unknown_argument_that_resembles_nothing():
    """No guess is better than a wrong one."""
    with pytest.raises(TypeError, match=r"no argument 'zzz'; it knows: arch, "):
        GCViT(arch(), zzz=1)


def test_unknown_arch():
    """The error names all that are known."""
    with pytest.raises(ValueError, match="no arch 'huge'") as error:
        GCViT('huge')
    assert str(error.value).endswith(', '.join(GCViT.arch_zoo))


def test_arch_dict_needs_exactly_its_keys():
    """Missing and unknown keys are named."""
    wrong = arch(window=7)
    del wrong['mlp_ratio']
    with pytest.raises(TypeError, match=r"missing: \['mlp_ratio'\], unknown: \['window'\]"):
        GCViT(wrong)
    with pytest.raises(ValueError, match='depths needs one value'):
        GCViT(arch(depths=(2, 2)))


def test_arch_dict_equals_the_name():
    """The entry of the zoo, given as a dict, is the same model; the zoo stays as it is."""
    before = dict(GCViT.arch_zoo['xxtiny'])
    with torch.device('meta'):
        model = GCViT(GCViT.arch_zoo['xxtiny'])
    shapes = {k: v.shape for k, v in on_meta('xxtiny').state_dict().items()}
    assert {k: v.shape for k, v in model.state_dict().items()} == shapes
    model.arch_settings['depths'] = ()
    assert GCViT.arch_zoo['xxtiny'] == before


# ---------------------------------------------------------------------- initialisation
def test_fresh_weights():
    """Linear layers and tables: std 0.02; biases 0; norms 1 and 0; convolutions as in torch."""
    model = GCViT(arch(embed_dims=64))
    model.init_weights()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.15), name
            assert module.bias is None or not module.bias.any(), name
        elif isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all() and not module.bias.any(), name
        elif isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((3 * fan_in) ** -0.5, rel=0.15), name
        elif name.endswith('rel_pos'):
            assert module.relative_position_bias_table.std().item() == pytest.approx(0.02, rel=0.2)


# ---------------------------------------------------------------------- state dicts
@pytest.mark.parametrize(
    'kwargs',
    [
        dict(),
        dict(window_size=24),
        dict(window_size=[(4, 6), (6, 4), (2, 5), 3]),
        dict(global_query='own', rel_pos_bias=False),
    ],
    ids=['usual', 'windows 24', 'rectangular', 'ablation'],
)
def test_own_state_dict_loads_back_exactly(kwargs):
    """Strictly, bit by bit, and nothing but parameters is stored."""
    source, target = fill(GCViT(arch(), **kwargs)), GCViT(arch(), **kwargs)
    state = source.state_dict()
    assert set(state) == {name for name, _ in source.named_parameters()}
    target.load_state_dict(state, strict=True)
    for name, value in target.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize('window_size', [24, 16, [(12, 20), (6, 10), 14, (3, 5)]], ids=str)
@torch.no_grad()
def test_strict_load_into_other_windows(window_size):
    """Tables are resized on the way, all else is copied; evaluation before does no harm."""
    source = fill(GCViT(arch()))
    state = source.state_dict()
    shapes = {k: v.shape for k, v in state.items()}
    early, late = (GCViT(arch(), window_size=window_size).eval() for _ in range(2))
    x = torch.randn(1, 3, 64, 64)
    early(x)  # fills what evaluation keeps
    early.load_state_dict(state, strict=True)
    late.load_state_dict(state, strict=True)
    assert_maps_close(early(x), late(x), 0)
    assert {k: v.shape for k, v in state.items()} == shapes
    for name, value in late.state_dict().items():
        if not name.endswith('relative_position_bias_table'):
            assert torch.equal(value, state[name]), name
    for block in blocks_of(late):
        table = block.attn.rel_pos.relative_position_bias_table
        h, w = block.attn.window_size
        assert table.shape[0] == (2 * h - 1) * (2 * w - 1) and table.any()


def test_strict_load_reports_other_differences():
    """Only tables are adapted: other heads are torch's usual error."""
    state = GCViT(arch(num_heads=(2, 4, 8, 16))).state_dict()
    with pytest.raises(RuntimeError, match='size mismatch.*relative_position_bias_table'):
        GCViT(arch()).load_state_dict(state)


# ---------------------------------------------------------------------- layer depth
def test_layer_depth():
    """Stem 0, blocks 1 to 8, a stage's rest with its first or last block, then the norms."""
    model = GCViT(arch())
    depths = {name: model.get_layer_depth(name) for name, _ in model.named_parameters()}
    assert {total for _, total in depths.values()} == {10}
    for name, (depth, _) in depths.items():
        part = name.split('.')
        if part[0] == 'patch_embed':
            want = 0
        elif part[0].startswith('norm'):
            want = 9
        elif part[2] == 'blocks':
            want = 1 + 2 * int(part[1]) + int(part[3])
        else:
            want = 2 * int(part[1]) + {'query_generator': 1, 'downsample': 2}[part[2]]
        assert depth == want, name
    assert {depth for depth, _ in depths.values()} == set(range(10))


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (1,)])
def test_layer_depth_grows_in_the_order_of_the_forward_pass(out_indices):
    """No parameter is deeper than one that is used after it."""
    model = GCViT(arch(depths=(3, 1, 2, 2)), out_indices=out_indices)
    order = []

    def enter(module, _):
        names = [name for name, p in module.named_parameters(recurse=False)]
        order.extend(f'{model_names[module]}.{name}' for name in names)

    model_names = {module: name for name, module in model.named_modules()}
    for module in model.modules():
        module.register_forward_pre_hook(enter)
    model(torch.randn(1, 3, 64, 64))
    depths = {name: model.get_layer_depth(name)[0] for name in order}
    inner = [depth for name, depth in depths.items() if not name.startswith('norm')]
    assert inner == sorted(inner)
    total = model.get_layer_depth('norm1.weight')[1]
    assert all(0 <= depth < total for depth in depths.values())
    # gamma-free blocks only enter modules with parameters: nothing may be missing
    assert set(depths) == {name for name, _ in model.named_parameters()}


def test_layer_depth_inside_a_larger_model():
    """The prefix of the backbone is cut off; what lies outside counts as the head."""
    model = GCViT(arch())
    for name in ('patch_embed.proj.weight', 'stages.2.blocks.1.norm1.bias', 'norm0.weight'):
        assert model.get_layer_depth(f'backbone.{name}', 'backbone.') == model.get_layer_depth(name)
    assert model.get_layer_depth('head.fc.weight', 'backbone.') == (9, 10)


def test_layer_decay_of_mmpretrain():
    """Its constructor finds the depths through a classifier and scales the rates by them."""
    pytest.importorskip('mmpretrain')
    from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor
    from mmpretrain.models import ImageClassifier

    classifier = ImageClassifier(
        backbone=dict(type='GCViT', arch=arch(), out_indices=(3,)),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=5, in_channels=128),
    )
    constructor = LearningRateDecayOptimWrapperConstructor(
        optim_wrapper_cfg=dict(optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05)),
        paramwise_cfg=dict(layer_decay_rate=0.5),
    )
    groups = constructor(classifier).optimizer.param_groups
    rates = {group['param_name']: group['lr'] for group in groups}
    assert rates['backbone.patch_embed.proj.weight'] == 0.5**9
    assert rates['backbone.stages.3.blocks.1.mlp.fc1.weight'] == 0.5
    assert rates['backbone.norm3.weight'] == rates['head.fc.weight'] == 1.0
