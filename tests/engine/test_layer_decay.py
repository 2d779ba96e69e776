"""Learning rates by depth, in the models of all three libraries."""

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS, init_default_scope
from torch import nn

from gcvit_mm import UserError
from gcvit_mm.engine import LayerDecayOptimWrapperConstructor
from support.families import FAMILIES, make
from support.running import ROOT

RATE = 0.5  # exact in binary
CONFIGS = [
    'mask_gcvit_xxt_shapes',
    'upernet_gcvit_xxt_shapes',
    'cls_gcvit_xxt_shapes',
    'mask_gpvit_l1_1x',
    'upernet_scalablevit_s_160k',
    'cls_ggdeit_t_300e',
]


def build(model, **paramwise_cfg):
    """Build the optimizer wrapper as a config does."""
    return build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            constructor='LayerDecayOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05),
            paramwise_cfg=paramwise_cfg,
        ),
    )


def groups_by_name(model, wrapper):
    """The group of every parameter that has one, by name; no parameter is in two."""
    names = {id(p): name for name, p in model.named_parameters()}
    pairs = [(names[id(p)], g) for g in wrapper.optimizer.param_groups for p in g['params']]
    assert len(pairs) == len(dict(pairs))
    return dict(pairs)


def meta_model(config):
    """The whole model of a config, without memory."""
    cfg = Config.fromfile(ROOT / f'configs/{config}.py')
    cfg.model.backbone.init_cfg = None
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        return MODELS.build(cfg.model)


def test_found_by_name():
    """Importing the package is enough for configs to name the constructor."""
    found = OPTIM_WRAPPER_CONSTRUCTORS.get('LayerDecayOptimWrapperConstructor')
    assert found is LayerDecayOptimWrapperConstructor


@pytest.mark.parametrize('config', CONFIGS)
def test_whole_models(config):
    """Stem and head are at the ends; blocks in between; nothing is left out."""
    model = meta_model(config)
    found = groups_by_name(model, build(model, layer_decay_rate=RATE))
    assert set(found) == {n for n, p in model.named_parameters() if p.requires_grad}
    backbone = model.backbone
    blocks = sum(backbone.depths[: backbone.num_built_stages])
    rates = {name: group['lr'] for name, group in found.items()}
    outside = {rate for name, rate in rates.items() if not name.startswith('backbone.')}
    assert outside == {1.0}
    stem = {rate for name, rate in rates.items() if '.patch_embed.' in name}
    assert stem == {RATE ** (blocks + 1)}
    assert set(rates.values()) == {RATE**k for k in range(blocks + 2)}
    # a group a depth: decay is the same for all
    assert len({id(group) for group in found.values()}) == blocks + 2


@pytest.mark.parametrize('family', FAMILIES)
def test_rates_of_blocks(family):
    """The rate of block k from the end is RATE ** k, counted by walking the modules."""
    model = make(family)
    found = groups_by_name(model, build(model, layer_decay_rate=RATE))
    stages = [getattr(s, 'blocks', [s]) for s in model.stages]
    blocks = [block for stage in stages for block in stage]
    names = {id(p): name for name, p in model.named_parameters()}
    for k, block in enumerate(reversed(blocks), start=1):
        for parameter in block.parameters():
            group = found[names[id(parameter)]]
            assert group['lr'] == RATE**k
            assert group['layer'] == len(blocks) + 1 - k


def test_agrees_with_mmpretrain():
    """mmpretrain's constructor, which serves classifiers only, gives the same."""
    model = meta_model('cls_gcvit_xxt_shapes')
    options = dict(layer_decay_rate=0.75, norm_decay_mult=0.0)
    ours = groups_by_name(model, build(model, **options))
    config = dict(
        constructor='LearningRateDecayOptimWrapperConstructor',
        optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05),
        paramwise_cfg=options,
    )
    theirs = groups_by_name(model, build_optim_wrapper(model, config))
    assert set(ours) == set(theirs)
    for name, group in ours.items():
        assert group['lr'] == pytest.approx(theirs[name]['lr'])
        assert group['weight_decay'] == theirs[name]['weight_decay']


def test_other_rules_apply_too():
    """No decay for tables, and another rate for them, beside that of the depth."""
    model = make('gcvit')
    keys = {'relative_position_bias_table': dict(decay_mult=0.0, lr_mult=2.0)}
    found = groups_by_name(model, build(model, layer_decay_rate=RATE, custom_keys=keys))
    for name, group in found.items():
        table = name.endswith('relative_position_bias_table')
        depth, count = model.get_layer_depth(name)
        assert group['weight_decay'] == (0.0 if table else 0.05)
        assert group['lr'] == (2 if table else 1) * RATE ** (count - 1 - depth)


def test_frozen_parameters_have_no_group():
    """What does not train is not given to the optimizer."""
    model = make('gcvit', frozen_stages=1)
    found = groups_by_name(model, build(model, layer_decay_rate=RATE))
    assert set(found) == {n for n, p in model.named_parameters() if p.requires_grad}
    assert not any(name.startswith(('patch_embed.', 'stages.0.', 'norm0.')) for name in found)


def test_a_step_is_taken_at_these_rates():
    """SGD moves every parameter by its own rate."""
    model = make('gg_deit')
    config = dict(
        constructor='LayerDecayOptimWrapperConstructor',
        optimizer=dict(type='SGD', lr=1.0),
        paramwise_cfg=dict(layer_decay_rate=RATE),
    )
    wrapper = build_optim_wrapper(model, config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    wrapper.step()
    for name, p in model.named_parameters():
        depth, count = model.get_layer_depth(name)
        moved = torch.full_like(p, RATE ** (count - 1 - depth))
        torch.testing.assert_close(before[name] - p.detach(), moved, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('rate', [None, 0, 1.5, '0.9', True])
def test_bad_rates(rate):
    """A rate that is missing or out of range is refused."""
    with pytest.raises(UserError, match=r'layer_decay_rate must be a number in \(0, 1\]'):
        build(make('gg_deit'), **({} if rate is None else dict(layer_decay_rate=rate)))


def test_names_of_mmdet_are_refused():
    """Options of mmdet's constructor would be passed over without a word."""
    options = dict(layer_decay_rate=0.9, decay_rate=0.9, num_layers=6)
    with pytest.raises(UserError, match='remove decay_rate, num_layers'):
        build(make('gg_deit'), **options)


def test_other_bad_input():
    """A misspelt key, and a model without our backbone."""
    with pytest.raises(UserError, match="'rpb' matches no parameter"):
        build(make('gcvit'), layer_decay_rate=0.9, custom_keys=dict(rpb=dict(decay_mult=0.0)))
    with pytest.raises(UserError, match='this Linear has 0'):
        build(nn.Linear(2, 2), layer_decay_rate=0.9)
