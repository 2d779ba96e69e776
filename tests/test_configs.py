"""Every leaf config: its name, its consistency, its size against the paper's tables."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from gcvit_mm.engine.complexity import build_on_meta, count_macs, count_parameters

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

CONFIGS = Path(__file__).parent.parent / 'configs'
LEAVES = sorted(CONFIGS.glob('*.py'))
GRAMMAR = re.compile(
    r'(?P<head>cascade|mask|upernet)_(?P<family>gcvit)_(?P<size>xxt|xt|t2?|s2?|b|l)'
    r'(?P<windows>_w24)?_(?P<schedule>1x|3x|160k|shapes)'
)
ARCHS = dict(xxt='xxtiny', xt='xtiny', t='tiny', t2='tiny2', s='small', s2='small2', b='base')
MODELS = dict(cascade='CascadeRCNN', mask='MaskRCNN', upernet='EncoderDecoder')
EPOCHS = {'1x': 12, '3x': 36}

# M parameters and G multiply-accumulates as the papers print them (v1, Tables 3 and 4; the
# rows of S and B are swapped there, and B is printed as 146).
PUBLISHED_PARAMETERS = {
    'mask_gcvit_t_3x': 48,
    'cascade_gcvit_t_3x': 85,
    'cascade_gcvit_s_3x': 108,
    'cascade_gcvit_b_3x': 146,
    'upernet_gcvit_t_160k': 58,
    'upernet_gcvit_s_160k': 84,
    'upernet_gcvit_b_160k': 125,
}
PUBLISHED_MACS = {
    'mask_gcvit_t_3x': 291,
    'cascade_gcvit_t_3x': 770,
    'cascade_gcvit_s_3x': 866,
    'cascade_gcvit_b_3x': 1018,
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
    assert (backbone.type, backbone.arch) == ('GCViT', ARCHS[match['size']])
    if match['windows']:
        assert backbone.window_size == 24
    if match['schedule'] in EPOCHS:
        assert cfg.train_cfg.max_epochs == EPOCHS[match['schedule']]
        assert cfg.param_scheduler[-1].end == EPOCHS[match['schedule']]
    elif match['schedule'] == '160k':
        assert cfg.train_cfg.max_iters == cfg.param_scheduler[-1].end == 160000


def test_is_short():
    """A leaf names its bases and what differs."""
    for path in LEAVES:
        assert len(path.read_text().splitlines()) <= 25, path.name


def test_what_every_config_has(leaf):
    """Root registration, learning-rate scaling, checkpoints kept, explicit query pools."""
    _, cfg = leaf
    assert cfg.custom_imports.imports == ['gcvit_mm']
    assert cfg.auto_scale_lr.base_batch_size in (4, 16)
    checkpoint = cfg.default_hooks.checkpoint
    assert checkpoint.max_keep_ckpts >= 3 and checkpoint.save_best
    window = cfg.model.backbone.get('window_size')
    assert cfg.model.backbone.query_pools == ((3, 2, 1, 0) if window else (3, 2, 0, 0))


def test_starts_from_released_weights(leaf):
    """The configs of the papers start from the authors' weights of the same arch."""
    name, cfg = leaf
    init_cfg = cfg.model.backbone.get('init_cfg')
    if name.endswith('shapes'):
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
    assert any('relative_position_bias_table' in n for n in names)
    assert all('norm' in n or 'relative_position_bias_table' in n for n in names)


@pytest.mark.parametrize('name', PUBLISHED_PARAMETERS)
def test_parameters_of_the_papers(name):
    """Whole models are within 2% of the published sizes."""
    model = build_on_meta(Config.fromfile(CONFIGS / f'{name}.py'))
    millions = count_parameters(model) / 1e6
    assert millions == pytest.approx(PUBLISHED_PARAMETERS[name], rel=0.02)


@pytest.mark.parametrize('name', PUBLISHED_MACS)
def test_macs_of_the_papers(name):
    """Detection with windows of 16 has the published FLOPs (1000 boxes, 100 masks) within 1%."""
    model = build_on_meta(Config.fromfile(CONFIGS / f'{name}.py'))
    macs = count_macs(model, (800, 1280))
    assert macs['total'] == pytest.approx(PUBLISHED_MACS[name], rel=0.01)
    assert macs['total'] == pytest.approx(sum(v for k, v in macs.items() if k != 'total'))


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
