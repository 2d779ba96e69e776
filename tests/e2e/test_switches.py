"""Every documented switch with every recipe: its optimizer can be built."""

import copy

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from torch import nn

from gcvit_mm.engine.optim import refuse_unknown
from gcvit_mm.planning.complexity import build_on_meta
from support.configs import CONFIGS, read_config

# Switches that take parameters away, by class.
SWITCHES = {
    'GCViT': [
        dict(rel_pos_bias=False),
        dict(global_query='none'),
        dict(global_query='own'),
        dict(overlap_patches=False),
    ],
    'GGTransformer': [
        *[dict(gaze=kind) for kind in ('none', 'attn', 'only', 'swin', 'msa')],
        dict(rel_pos_bias=False),
    ],
    'GGDeiT': [dict(with_cls_token=False, out_type='featmap')],
    'ScalableViT': [
        dict(peg=False),
        dict(interaction='none'),
        dict(interaction='lem'),
        dict(attn_kinds=('wsa', 'wsa')),
        dict(attn_kinds=('swsa', 'ssa')),
    ],
    'GPViT': [
        *[dict(global_attn=kind) for kind in ('none', 'attention', 'shift', 'conv')],
        dict(propagation='none'),
        dict(local_attn='window', global_attn='none'),
        dict(local_attn='window', global_attn='shift', rel_pos_bias=True),
        dict(local_attn='attention', global_attn='none'),
    ],
}
SWITCHES['GPViTAdapter'] = SWITCHES['GPViT']
seen = {}  # recipes for a kind of model, and the first config that has them


@pytest.mark.parametrize('name', sorted(path.stem for path in CONFIGS.glob('*.py')))
def test_every_switch_trains(name):
    """With the rules of the config, whose parts may be gone; where no other config has the same."""
    cfg = read_config(name)
    backbone, wrapper = cfg.model.backbone, cfg.optim_wrapper
    key = repr((backbone.type, cfg.model.type, wrapper))
    if seen.setdefault(key, name) != name:
        return
    known = wrapper.get('paramwise_cfg', {}).get('custom_keys', {})
    for number, switch in enumerate(SWITCHES[backbone.type]):
        changed = copy.deepcopy(cfg)
        changed.model.backbone.update(switch)
        if number:  # building heads and optimizers takes its time
            with torch.device('meta'):
                model = nn.ModuleDict(dict(backbone=MODELS.build(changed.model.backbone)))
            refuse_unknown(model, [key for key in known if 'head' not in key])
        else:
            model = build_on_meta(changed)
            build_optim_wrapper(model, copy.deepcopy(wrapper))
