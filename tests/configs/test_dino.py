"""DINO on GC ViT: the levels and the rates."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from gcvit_mm.planning.complexity import build_on_meta
from support.configs import read_config

pytest.importorskip('mmdet')


@pytest.fixture(scope='module', params=['dino_gcvit_t_1x', 'dino_gcvit_l_3x'])
def built(request):
    """A DINO config, and its model."""
    cfg = read_config(request.param)
    return cfg, build_on_meta(cfg)


def test_four_scales(built):
    """The transformer sees four maps, of strides 8 to 64."""
    _, model = built
    maps = model.extract_feat(torch.zeros(1, 3, 256, 320, device='meta'))
    assert [tuple(m.shape[2:]) for m in maps] == [(32, 40), (16, 20), (8, 10), (4, 5)]
    assert model.num_feature_levels == len(maps)
    assert model.level_embed.shape[0] == len(maps)


def test_rates(built):
    """The backbone learns at a tenth of the rate of the rest, and gradients are clipped."""
    config, model = built
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    rates = {id(p): group['lr'] for group in wrapper.param_groups for p in group['params']}
    for name, parameter in model.named_parameters():
        expected = 1e-5 if name.startswith('backbone.') else 1e-4
        assert rates[id(parameter)] == pytest.approx(expected), name
    assert isinstance(wrapper.optimizer, torch.optim.AdamW)
    assert wrapper.clip_grad_kwargs['max_norm'] == 0.1
