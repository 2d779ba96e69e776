"""Every leaf config: its name, its consistency, its size against the paper's tables."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from gcvit_mm.engine.complexity import (
    INPUT_SIZES,
    build_on_meta,
    count_macs,
    count_parameters,
)

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

CONFIGS = Path(__file__).parent.parent / 'configs'
LEAVES = sorted(CONFIGS.glob('*.py'))
GRAMMAR = re.compile(
    r'(?P<head>cascade|mask|retinanet|semfpn|upernet)_(?P<family>gcvit|scalablevit|gg)_'
    r'(?P<size>xxt|xt|t2?|s2?|b|l)(?P<windows>_w24)?_(?P<schedule>1x|3x|80k|160k|shapes)'
)
SIZES = dict(
    xxt='xxtiny', xt='xtiny', t='tiny', t2='tiny2', s='small', s2='small2', b='base', l='large'
)
FAMILIES = dict(gcvit='GCViT', scalablevit='ScalableViT', gg='GGTransformer')
MODELS = dict(
    cascade='CascadeRCNN',
    mask='MaskRCNN',
    retinanet='RetinaNet',
    semfpn='EncoderDecoder',
    upernet='EncoderDecoder',
)
EPOCHS = {'1x': 12, '3x': 36}
ITERATIONS = {'80k': 80000, '160k': 160000}

# M parameters and G multiply-accumulates as the papers print them. GC ViT: v1, Tables 3 and 4;
# the rows of S and B are swapped there, and B is printed as 146. ScalableViT: README; its MACs
# leave the products of attention out. GG: Tables 2 and 3.
PUBLISHED_PARAMETERS = {
    'mask_gcvit_t_3x': 48,
    'cascade_gcvit_t_3x': 85,
    'cascade_gcvit_s_3x': 108,
    'cascade_gcvit_b_3x': 146,
    'upernet_gcvit_t_160k': 58,
    'upernet_gcvit_s_160k': 84,
    'upernet_gcvit_b_160k': 125,
    'retinanet_scalablevit_s_1x': 36.4,
    'retinanet_scalablevit_b_3x': 85.6,
    'retinanet_scalablevit_l_1x': 112.6,
    'mask_scalablevit_s_3x': 46.3,
    'mask_scalablevit_b_1x': 94.9,
    'mask_scalablevit_l_1x': 121.4,
    'semfpn_scalablevit_s_80k': 30.4,
    'semfpn_scalablevit_b_80k': 79.0,
    'semfpn_scalablevit_l_80k': 105.5,
    'upernet_scalablevit_s_160k': 56.5,
    'upernet_scalablevit_b_160k': 107.0,
    'upernet_scalablevit_l_160k': 135.5,
    'mask_gg_t_1x': 48,
    'mask_gg_s_1x': 69,
    'upernet_gg_t_160k': 60,
    'upernet_gg_s_160k': 81,
}
PUBLISHED_MACS = {
    'mask_gcvit_t_3x': 291,
    'cascade_gcvit_t_3x': 770,
    'cascade_gcvit_s_3x': 866,
    'cascade_gcvit_b_3x': 1018,
    'mask_gg_t_1x': 265,
    'mask_gg_s_1x': 355,
    'upernet_gg_t_160k': 942,
    'upernet_gg_s_160k': 1035,
}
PUBLISHED_MACS_WITHOUT_ATTENTION = {
    'retinanet_scalablevit_s_1x': 238,
    'retinanet_scalablevit_b_1x': 330,
    'retinanet_scalablevit_l_1x': 457,
    'mask_scalablevit_s_1x': 256,
    'mask_scalablevit_b_1x': 349,
    'mask_scalablevit_l_1x': 477,
    'semfpn_scalablevit_s_80k': 174,
    'semfpn_scalablevit_b_80k': 270,
    'semfpn_scalablevit_l_80k': 402,
    'upernet_scalablevit_s_160k': 931,
    'upernet_scalablevit_b_160k': 1029,
    'upernet_scalablevit_l_160k': 1162,
}


@pytest.fixture(params=LEAVES, ids=lambda path: path.stem)
def leaf(request):
    """Name and content of every leaf config."""
    return request.param.stem, Config.fromfile(request.param)


def test_name_tells_content(leaf):
    """Head, size, windows and schedule of the name are those of the config."""
    name, cfg = leaf
    match = GRAMMAR.fullmatch(name)
    assert match, f'{name} does not follow the grammar of configs/README.md'
    assert cfg.model.type == MODELS[match['head']]
    backbone = cfg.model.backbone
    assert backbone.type == FAMILIES[match['family']]
    assert backbone.arch == SIZES[match['size']]
    if match['windows']:
        assert backbone.window_size == 24
    if match['schedule'] in EPOCHS:
        assert cfg.train_cfg.max_epochs == EPOCHS[match['schedule']]
        assert cfg.param_scheduler[-1].end == EPOCHS[match['schedule']]
    elif match['schedule'] in ITERATIONS:
        count = ITERATIONS[match['schedule']]
        assert cfg.train_cfg.max_iters == cfg.param_scheduler[-1].end == count


def test_is_short():
    """A leaf names its bases and what differs."""
    for path in LEAVES:
        assert len(path.read_text().splitlines()) <= 25, path.name


def test_what_every_config_has(leaf):
    """Root registration, learning-rate scaling, checkpoints kept, explicit query pools."""
    name, cfg = leaf
    assert cfg.custom_imports.imports == ['gcvit_mm']
    assert cfg.auto_scale_lr.base_batch_size in (4, 16)
    checkpoint = cfg.default_hooks.checkpoint
    assert checkpoint.max_keep_ckpts >= 3 and checkpoint.save_best
    if '_gcvit_' not in name:
        return
    window = cfg.model.backbone.get('window_size')
    assert cfg.model.backbone.query_pools == ((3, 2, 1, 0) if window else (3, 2, 0, 0))


def test_starts_from_released_weights(leaf):
    """GC ViT starts from the authors' weights of the same arch; the others have no address."""
    name, cfg = leaf
    init_cfg = cfg.model.backbone.get('init_cfg')
    if name.endswith('shapes') or '_gcvit_' not in name:
        assert init_cfg is None
        return
    assert init_cfg.checkpoint.endswith(f'gcvit_1k_{cfg.model.backbone.arch}.pth.tar')


def test_builds_and_fits(leaf):
    """The model builds, channels agree, and the weight-decay keys match parameters."""
    _, cfg = leaf
    model = build_on_meta(cfg)
    channels = list(model.backbone.out_channels)
    consumer = cfg.model.neck if 'neck' in cfg.model else cfg.model.decode_head
    assert list(consumer.in_channels) == channels
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    undecayed = {id(p) for g in wrapper.param_groups if g['weight_decay'] == 0 for p in g['params']}
    names = [n for n, p in model.named_parameters() if id(p) in undecayed]
    tables = [n for n, _ in model.named_parameters() if 'relative_position_bias_table' in n]
    assert names and set(tables) <= set(names)
    assert all('norm' in n or 'relative_position_bias_table' in n for n in names)


@pytest.mark.parametrize('name', PUBLISHED_PARAMETERS)
def test_parameters_of_the_papers(name):
    """Whole models are within 2% of the published sizes."""
    model = build_on_meta(Config.fromfile(CONFIGS / f'{name}.py'))
    millions = count_parameters(model) / 1e6
    assert millions == pytest.approx(PUBLISHED_PARAMETERS[name], rel=0.02)


@pytest.mark.parametrize('name', PUBLISHED_MACS)
def test_macs_of_the_papers(name):
    """The published FLOPs (1000 boxes, 100 masks for detection) come out within 1%."""
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    model = build_on_meta(cfg)
    macs = count_macs(model, INPUT_SIZES[cfg.default_scope])
    assert macs['total'] == pytest.approx(PUBLISHED_MACS[name], rel=0.01)
    assert macs['total'] == pytest.approx(sum(v for k, v in macs.items() if k != 'total'))


@pytest.mark.parametrize('name', PUBLISHED_MACS_WITHOUT_ATTENTION)
def test_macs_without_attention_of_the_papers(name):
    """ScalableViT counts convolutions and linear layers only: the same within 2%."""
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    macs = count_macs(build_on_meta(cfg), INPUT_SIZES[cfg.default_scope], attention=False)
    assert macs['total'] == pytest.approx(PUBLISHED_MACS_WITHOUT_ATTENTION[name], rel=0.02)


def test_macs_of_windows_24():
    """The released setting costs 351 G; a count that ignored attention would not show it."""
    model = build_on_meta(Config.fromfile(CONFIGS / 'mask_gcvit_t_w24_3x.py'))
    assert count_macs(model, (800, 1280))['total'] == pytest.approx(351, rel=0.005)


def test_macs_of_a_known_layer():
    """One linear layer is counted as in x out, once a token."""
    from torch import nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Conv2d(3, 8, 1)
            self.head = nn.Conv2d(8, 2, 3, padding=1)

    with torch.device('meta'):
        model = Model()
    macs = count_macs(model, (10, 20))
    assert macs['backbone'] == pytest.approx(200 * 3 * 8 / 1e9)
    assert macs['head'] == pytest.approx(200 * 8 * 2 * 9 / 1e9)
