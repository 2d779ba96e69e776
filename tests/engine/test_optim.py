"""Weight-decay rules are known to apply."""

import copy

import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS

from gcvit_mm import GCViT, UserError
from gcvit_mm.engine.optim import CheckedOptimWrapperConstructor

ARCH = dict(
    embed_dims=16,
    depths=(2, 2, 2, 2),
    num_heads=(1, 2, 4, 8),
    mlp_ratio=2.0,
    layer_scale=1e-5,
    window_size=(7, 7, 14, 7),
    drop_path_rate=0.0,
)
NO_DECAY = {
    'norm': dict(decay_mult=0.0),
    'relative_position_bias_table': dict(decay_mult=0.0),
}


def build(model, **paramwise_cfg):
    """Build the optimizer wrapper as a config does."""
    return build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            constructor='CheckedOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
            **(dict(paramwise_cfg=paramwise_cfg) if paramwise_cfg else {}),
        ),
    )


def decays(model, wrapper):
    """Weight decay of every parameter, by name."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups = wrapper.optimizer.param_groups
    return {names[id(p)]: group['weight_decay'] for group in groups for p in group['params']}


def test_found_by_name():
    """Importing the package is enough for configs to name the constructor."""
    found = OPTIM_WRAPPER_CONSTRUCTORS.get('CheckedOptimWrapperConstructor')
    assert found is CheckedOptimWrapperConstructor


def test_norms_and_tables_are_not_decayed():
    """Every norm and every bias table has decay 0, everything else the full one."""
    model = GCViT(ARCH)
    found = decays(model, build(model, custom_keys=copy.deepcopy(NO_DECAY)))
    assert set(found) == {name for name, _ in model.named_parameters()}
    free = {name for name, decay in found.items() if decay == 0}
    norms = {name for name in found if 'norm' in name.rpartition('.')[0].rpartition('.')[2]}
    tables = {name for name in found if name.endswith('relative_position_bias_table')}
    # 2 a block; 2 for each of the stem's and three other downsamplings; 4 outputs
    assert len(norms) == 2 * (8 * 2 + 4 * 2 + 4) and len(tables) == 8
    assert free == norms | tables
    assert {decay for name, decay in found.items() if name not in free} == {0.05}


@pytest.mark.parametrize('settings', [{}, dict(norm_decay_mult=0.0)])
def test_without_custom_keys(settings):
    """Rules without keys, and no rules at all, are mmengine's own business."""
    model = GCViT(ARCH)
    found = decays(model, build(model, **settings))
    assert len(found) == len(list(model.parameters()))
    assert found['norm0.weight'] == (0.0 if settings else 0.05)


def test_a_key_without_a_parameter_is_an_error():
    """The released configs' 'rpb' matches nothing: the error names it and where it stands."""
    keys = dict(copy.deepcopy(NO_DECAY), rpb=dict(decay_mult=0.0))
    with pytest.raises(UserError, match=r"paramwise_cfg\.custom_keys: 'rpb' matches no param"):
        build(GCViT(ARCH), custom_keys=keys)
    keys = dict(relativ_position_bias_tabel=dict(decay_mult=0.0))
    with pytest.raises(UserError, match="did you mean 'relative_position_bias_table'"):
        build(GCViT(ARCH, rel_pos_bias=False), custom_keys=keys)


def test_the_remedy_works():
    """A rule taken away by _delete_ in a config, or on the command line."""
    base = dict(keys=dict(rpb=dict(decay_mult=0.0), norm=dict(decay_mult=0.0)))
    for how in (dict(keys=dict(rpb=dict(_delete_=True))), {'keys.rpb._delete_': True}):
        cfg = Config(copy.deepcopy(base))
        cfg.merge_from_dict(how)
        found = decays(model := GCViT(ARCH), build(model, custom_keys=cfg['keys']))
        assert found['norm0.weight'] == 0
