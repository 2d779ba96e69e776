"""The rows of the papers' ablations: names, sizes, recipes; what differs from what is ablated."""

import copy
import random
import re

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch.utils.flop_counter import FlopCounterMode

from gcvit_mm.engine.optim import refuse_unknown
from gcvit_mm.planning.complexity import build_on_meta, count_macs, count_parameters
from support.ablations import COUNTS
from support.configs import CONFIGS, read_config

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')

LEAVES = sorted(path.stem for path in (CONFIGS / 'ablations').glob('*.py'))
GRAMMAR = re.compile(
    r'(?P<family>gcvit|gg|gpvit|scalablevit)_'
    r'(?P<place>table[s\d][\da-z]?|appendix[a-z]\d?)_'
    r'(?P<row>[a-z\d_]+?)(?P<head>_mask|_upernet|_segformer|_semfpn)?'
)
FAMILIES = dict(gcvit='GCViT', gg='GGTransformer', gpvit='GPViT', scalablevit='ScalableViT')
# What is ablated, by family; by head where it is not the classifier.
BASELINES = dict(
    gcvit='ablations/gcvit_table2_t',
    gg='ablations/gg_table4a_adaptive',
    gpvit='cls_gpvit_l1_300e',
    scalablevit='cls_scalablevit_s_300e',
    mask='mask_gcvit_t_3x',
    upernet='upernet_gcvit_t_160k',
    segformer='segformer_gpvit_l1_160k',
    semfpn='semfpn_scalablevit_s_80k',
)
# Of a backbone, what depends on the task.
SETTINGS = ('init_cfg', 'out_indices', 'drop_path_rate', 'query_pools', 'window_size')


def parts(name):
    """Family, place in the paper and head of a name."""
    match = GRAMMAR.fullmatch(name)
    assert match, f'{name} does not follow the grammar of configs/README.md'
    return match['family'], match['place'], (match['head'] or '').lstrip('_')


@pytest.fixture(params=LEAVES)
def leaf(request):
    """Name and content of every ablation."""
    return request.param, read_config(f'ablations/{request.param}')


def test_name_and_length(leaf):
    """The name follows the grammar; a leaf names its base and what differs."""
    name, cfg = leaf
    assert cfg.model.backbone.type == FAMILIES[parts(name)[0]]
    lines = (CONFIGS / 'ablations' / f'{name}.py').read_text().splitlines()
    assert len(lines) <= 13 and lines[0].startswith(('#', '_base_'))


def test_only_the_model_differs(leaf):
    """Data, schedule, rules and hooks are those of what is ablated, but for rows about recipes."""
    name, cfg = leaf
    family, place, head = parts(name)
    if place.startswith('appendix') or place == 'table2':
        return
    baseline = read_config(BASELINES[head or family])
    rest = {*cfg, *baseline} - {'model', 'backbone', 'channels'}
    assert {key for key in rest if cfg.get(key) != baseline.get(key)} == set()
    differs = {key for key in cfg.model if cfg.model[key] != baseline.model.get(key)}
    assert differs <= {'backbone', 'neck'}
    assert 'backbone' in differs or f'ablations/{name}' == BASELINES[family]


built = {}  # optimizers and kinds of models, and the first ablation that has them


def test_builds_and_its_optimizer(leaf):
    """The model builds, channels agree, parameters are those of a prototype, rules have some."""
    name, cfg = leaf
    model = build_on_meta(copy.deepcopy(cfg))
    rules = cfg.optim_wrapper.get('paramwise_cfg', {}).get('custom_keys', {})
    refuse_unknown(model, list(rules))
    if built.setdefault(repr((cfg.model.type, cfg.optim_wrapper)), name) == name:
        build_optim_wrapper(model, cfg.optim_wrapper)  # takes its time: once a recipe
    if not parts(name)[2]:
        assert cfg.model.head.in_channels == model.backbone.out_channels[0]
        counted = model.backbone if name.startswith('gpvit') else model
        if name in COUNTS:
            assert count_parameters(counted) / 1e6 == pytest.approx(COUNTS[name][0], abs=0.011)
        return
    consumed = (cfg.model.neck if 'neck' in cfg.model else cfg.model.decode_head).in_channels
    assert list(consumed) == list(model.backbone.out_channels)
    if parts(name)[1].startswith('appendix'):
        return
    # the backbone is that of the row's classifier, whose weights it starts from
    row = name.rpartition('_')[0].replace('table7_lem', 'table5b_peg_lem')
    classifier = read_config(f'ablations/{row}')
    checkpoint = f'work_dirs/{row}/epoch_{classifier.train_cfg.max_epochs}.pth'
    assert cfg.model.backbone.init_cfg == dict(type='Pretrained', checkpoint=checkpoint)
    switches = [
        {key: value for key, value in c.model.backbone.items() if key not in SETTINGS}
        for c in (cfg, classifier)
    ]
    assert switches[0] == switches[1]


def test_every_classifier_is_counted():
    """But GC ViT's that were tailored to a size, and gaze alone: see below."""
    classifiers = {name for name in LEAVES if not parts(name)[2]}
    others = ('gcvit_table5_no_gsa', 'gcvit_table5_no_global_share', 'gg_table4b_gaze_only')
    assert classifiers == {*COUNTS, *others} and len(LEAVES) - len(classifiers) > 25


def test_some_run():
    """A few, drawn anew in every run, compute as much as their prototypes; e2e has them all."""
    for name in random.sample([name for name, counts in COUNTS.items() if counts[1]], 3):
        model = build_on_meta(read_config(f'ablations/{name}'))
        macs = count_macs(model, (224, 224))
        total = macs['backbone' if name.startswith('gpvit') else 'total']
        assert total == pytest.approx(COUNTS[name][1], rel=0.006), name


def test_a_segmentor_runs():
    """One, drawn anew in every run: classes at the stride of its first map."""
    heads = ('upernet', 'segformer', 'semfpn')
    name = random.choice([name for name in LEAVES if parts(name)[2] in heads])
    model = build_on_meta(read_config(f'ablations/{name}'))
    maps = model.backbone(torch.zeros(1, 3, 64, 96, device='meta'))
    maps = model.neck(maps) if model.with_neck else maps
    assert model.decode_head(maps).shape == (1, 150, *maps[0].shape[2:]), name


def test_gaze_only():
    """Less than Glance+Gaze (Conv) by queries and keys, their bias tables, and their products."""
    names = ('gg_table4a_fixed3', 'gg_table4b_gaze_only')
    models = [build_on_meta(read_config(f'ablations/{name}')) for name in names]
    macs = []
    for model in models:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.backbone(torch.zeros(1, 3, 224, 224, device='meta'))
        macs.append(counter.get_total_flops() // 2)
    fewer = products = 0
    for i, (depth, side) in enumerate(zip((2, 2, 6, 2), (56, 28, 14, 7))):
        c, tokens = 96 * 2**i, side * side
        fewer += depth * (2 * c * (c + 1) + 13 * 13 * 3 * 2**i)
        products += depth * tokens * (2 * c * c + 2 * 7 * 7 * c)
    assert count_parameters(models[0]) - count_parameters(models[1]) == fewer
    assert macs[0] - macs[1] == products


# ---------------------------------------------------------------- recipes
def test_recipe_of_v1():
    """Table 2 of GC ViT's first version: as it prints it, and no averaged weights."""
    for size in ('xxt', 'xt', 't', 's', 'b'):
        cfg = read_config(f'ablations/gcvit_table2_{size}')
        later = read_config(f'cls_gcvit_{size}_300e')
        assert cfg.model == later.model and cfg.test_dataloader == later.test_dataloader
        optimizer = cfg.optim_wrapper.optimizer
        assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-3, 0.05)
        assert cfg.train_cfg.max_epochs == 300 + 20 and 'custom_hooks' not in cfg
        assert cfg.auto_scale_lr.base_batch_size == 32 * cfg.train_dataloader.batch_size == 1024


RATE, BATCH = 'optim_wrapper.optimizer.lr', 'auto_scale_lr.base_batch_size'
PRINTED = [
    ('gpvit_appendixb2_l1', 'cls_gpvit_l1_300e', {'optim_wrapper.clip_grad.max_norm': 5.0}),
    ('gpvit_appendixb4_l1_upernet', 'upernet_gpvit_l1_160k', {RATE: 6e-5, BATCH: 16}),
    ('gpvit_appendixb4_l1_segformer', 'segformer_gpvit_l1_160k', {RATE: 6e-5, BATCH: 16}),
    (
        'scalablevit_appendixc_s',
        'cls_scalablevit_s_300e',
        {'train_dataloader.sampler.type': 'RepeatAugSampler'},
    ),
]


@pytest.mark.parametrize(('name', 'base', 'changes'), PRINTED)
def test_recipes_as_printed(name, base, changes):
    """What a paper prints where its authors released something else, and nothing besides."""
    cfg, expected = read_config(f'ablations/{name}'), read_config(base)
    assert dict(cfg) != dict(expected)
    expected.merge_from_dict(changes)
    assert dict(cfg) == dict(expected)
