"""Every leaf config: its name and its consistency. Its size: test_model_zoo.py."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from gcvit_mm.planning.complexity import build_on_meta, count_parameters
from support.configs import CONFIGS, read_config

pytest.importorskip('mmdet')
mmseg = pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')

import model_zoo

LEAVES = sorted(CONFIGS.glob('*.py'))
GRAMMAR = re.compile(
    r'(?P<head>cascade|cls|dino|mask|retinanet|segformer|semfpn|upernet)_'
    r'(?P<family>gcvit|scalablevit|gg|ggdeit|gpvit)_'
    r'(?P<size>xxt|xt|t2?|s2?|b|l[1-4]?)(?P<windows>_w24)?_'
    r'(?P<schedule>1x|3x|80k|160k|300e|384|512|shapes)'
)
SIZES = dict(
    xxt='xxtiny', xt='xtiny', t='tiny', t2='tiny2', s='small', s2='small2', b='base', l='large'
)
SIZES.update({f'l{i}': f'L{i}' for i in range(1, 5)})
FAMILIES = dict(gcvit='GCViT', scalablevit='ScalableViT', gg='GGTransformer', ggdeit='GGDeiT')
MODELS = dict(
    cascade='CascadeRCNN',
    cls='ImageClassifier',
    dino='DINO',
    mask='MaskRCNN',
    retinanet='RetinaNet',
    segformer='EncoderDecoder',
    semfpn='EncoderDecoder',
    upernet='EncoderDecoder',
)
# Beside everything one-dimensional, what classification excepts from weight decay.
NO_DECAY = re.compile(r'relative_position_bias_table|\.peg\.|pos_embed|cls_token|group_token')
EPOCHS = {'1x': 12, '3x': 36, '300e': 300, '384': 30, '512': 30}
COOL_DOWN = 20  # more epochs of GC ViT's 300; the cosine ends after the first half of them
ITERATIONS = {'80k': 80000, '160k': 160000}

# GPViT: counted from the released code (heads of 3 anchors a place); the paper cuts the decimals.
COUNTED_PARAMETERS = {
    'mask_gpvit': (33.52, 50.31, 64.87, 109.59),
    'retinanet_gpvit': (21.46, 37.91, 52.18, 96.02),
    'upernet_gpvit': (37.67, 53.43, 66.84, 107.49),
    'segformer_gpvit': (9.85, 24.35, 36.97, 75.81),
}


@pytest.fixture(params=LEAVES, ids=lambda path: path.stem)
def leaf(request):
    """Name and content of every leaf config."""
    return request.param.stem, read_config(request.param.stem)


def test_name_tells_content(leaf):
    """Head, size, windows and schedule of the name are those of the config."""
    name, cfg = leaf
    match = GRAMMAR.fullmatch(name)
    assert match, f'{name} does not follow the grammar of configs/README.md'
    assert cfg.model.type == MODELS[match['head']]
    backbone = cfg.model.backbone
    if match['family'] == 'gpvit':
        adapter = 'Adapter' if match['head'] in ('mask', 'retinanet') else ''
        assert backbone.type == f'GPViT{adapter}'
    else:
        assert backbone.type == FAMILIES[match['family']]
    larger = f'_{match["schedule"]}' if match['schedule'] in ('384', '512') else ''
    assert backbone.arch == SIZES[match['size']] + larger
    if match['windows']:
        assert backbone.window_size == 24
    if match['schedule'] in EPOCHS:
        epochs = EPOCHS[match['schedule']]
        more = COOL_DOWN if match['family'] == 'gcvit' and match['schedule'] == '300e' else 0
        assert cfg.train_cfg.max_epochs == epochs + more
        assert cfg.param_scheduler[-1].end == epochs + more // 2
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
    assert cfg.auto_scale_lr.base_batch_size in (4, 16, 32, 1024, 2048, 4096)
    checkpoint = cfg.default_hooks.checkpoint
    assert checkpoint.max_keep_ckpts >= 3 and checkpoint.save_best
    # else TensorBoard shows all evaluations of runs without epochs at step 0
    assert cfg.log_processor.by_epoch or not cfg.default_hooks.logger.log_metric_by_epoch
    if '_gcvit_' not in name:
        return
    window = cfg.model.backbone.get('window_size') and not name.startswith('cls_')
    assert cfg.model.backbone.query_pools == ((3, 2, 1, 0) if window else (3, 2, 0, 0))


def test_starts_from_released_weights(leaf):
    """GC ViT starts from the authors' weights of the same arch; the others have no address."""
    name, cfg = leaf
    init_cfg = cfg.model.backbone.get('init_cfg')
    if name.endswith(('shapes', '300e')) or '_gcvit_' not in name:
        assert init_cfg is None
        return
    if name.startswith('cls_'):  # fine-tuned from 224
        assert init_cfg.checkpoint.endswith('gcvit_1k_large.pth.tar')
        return
    weights = '21k_large_384' if name == 'dino_gcvit_l_3x' else f'1k_{cfg.model.backbone.arch}'
    assert init_cfg.checkpoint.endswith(f'gcvit_{weights}.pth.tar')


BUILT = {}


def built(cfg):
    """The model of a config, to look at; built once for 1x and 3x, which have the same."""
    identity = model_zoo.identify(cfg, '')
    if identity not in BUILT:
        BUILT.clear()
        BUILT[identity] = build_on_meta(cfg)
    return BUILT[identity]


def assert_size_of_gpvit(name, model):
    """Whole models of GPViT equal the counts of the released code to 0.05 M."""
    head, _, rest = name.partition('_l')
    if head in COUNTED_PARAMETERS:
        counted = COUNTED_PARAMETERS[head][int(rest[0]) - 1]
        assert count_parameters(model) / 1e6 == pytest.approx(counted, abs=0.05)


def test_every_size_of_gpvit_is_there():
    """The counts above are all compared."""
    names = {path.stem.rpartition('_')[0] for path in LEAVES}
    assert {f'{head}_l{i}' for head in COUNTED_PARAMETERS for i in (1, 2, 3, 4)} <= names


def test_builds_and_fits(leaf):
    """The model builds, channels agree, and the weight-decay keys match parameters."""
    name, cfg = leaf
    model = built(cfg)
    assert_size_of_gpvit(name, model)
    channels = list(model.backbone.out_channels)
    if name.startswith('cls'):
        consumed = [cfg.model.head.in_channels]
    else:
        consumed = (cfg.model.neck if 'neck' in cfg.model else cfg.model.decode_head).in_channels
    assert list(consumed) == channels
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    undecayed = {id(p) for g in wrapper.param_groups if g['weight_decay'] == 0 for p in g['params']}
    if name.startswith('dino'):  # decays everything, as mmdet does; test_dino.py has its rates
        assert not undecayed
        return
    if name.startswith('cls') and not name.endswith('shapes'):
        for n, p in model.named_parameters():
            assert (id(p) in undecayed) == bool(p.ndim == 1 or NO_DECAY.search(n)), n
        return
    if '_gpvit_' in name:
        exceptions = r'norm|\.pos_embed|\.group_token'
        if name.startswith(('mask', 'retinanet')):
            exceptions += '|level_embed|bias'
        norms = {
            f'{n}.{p}'
            for n, m in model.named_modules()
            if isinstance(m, torch.nn.modules.batchnorm._NormBase)
            for p, _ in m.named_parameters()
        }
        for n, p in model.named_parameters():
            excepted = re.search(exceptions, n)
            if name.startswith('segformer'):  # its norms and biases too, but the head's
                excepted = excepted or n.startswith('backbone') and (n in norms or 'bias' in n)
                excepted = excepted and not n.startswith('decode_head')
            assert (id(p) in undecayed) == bool(excepted), n
        return
    exceptions = r'norm|relative_position_bias_table'
    if '_scalablevit_' in name:  # as Twins
        exceptions = r'never' if name.endswith(('1x', '80k')) else r'norm|\.peg\.'
    for n, p in model.named_parameters():
        assert (id(p) in undecayed) == bool(re.search(exceptions, n)), n


@pytest.mark.parametrize(
    ('ours', 'theirs'),
    [
        ('upernet_scalablevit_s_160k', 'twins_svt-s_uperhead_8xb2-160k_ade20k-512x512.py'),
        ('semfpn_scalablevit_s_80k', 'twins_svt-s_fpn_fpnhead_8xb4-80k_ade20k-512x512.py'),
    ],
)
def test_scalablevit_is_trained_as_twins(ours, theirs):
    """Rate, decay and what is excepted from it, as mmseg has them for Twins."""
    folder = Path(mmseg.__file__).parent / '.mim/configs/twins'
    ours, theirs = read_config(ours).optim_wrapper, Config.fromfile(folder / theirs).optim_wrapper
    for key in ('type', 'lr', 'weight_decay'):
        assert ours.optimizer[key] == theirs.optimizer[key]
    names = {'.peg.': 'pos_block'}
    rules = [w.get('paramwise_cfg', {}).get('custom_keys', {}) for w in (ours, theirs)]
    assert {names.get(key, key): rule for key, rule in rules[0].items()} == rules[1]


def test_gg_is_trained_as_swin_in_detection():
    """Drop path and warm-up of the 1x configs of Swin's authors, who have S in 3x only."""
    rates = dict(mask_gg_t_1x=0.1, cascade_gg_t_1x=0.0, mask_gg_s_1x=0.2, cascade_gg_s_1x=0.2)
    for name, rate in rates.items():
        cfg = read_config(name)
        assert cfg.model.backbone.drop_path_rate == rate
        assert cfg.param_scheduler[0].type == 'LinearLR' and cfg.param_scheduler[0].end == 500
