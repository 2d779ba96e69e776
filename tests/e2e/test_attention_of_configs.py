"""The attention of every config on a fake GPU."""

import pytest
import torch

import gcvit_mm
from support.configs import CONFIGS, read_config
from support.cuda import fake_cuda, run_on_fake_cuda, two_blocks, unfused

TRAINING = ('init_cfg', 'drop_path_rate', 'with_cp', 'frozen_stages', 'out_indices', 'norm_cfg')
asked = {}  # backbones, and the first config that has them


@pytest.mark.parametrize('name', sorted(path.stem for path in CONFIGS.glob('*.py')))
def test_attention_of_configs_can_be_fused(name):
    """At the size of COCO's images, in bfloat16, where no other config has the same backbone."""
    backbone = read_config(name).model.backbone.to_dict()
    key = repr(sorted((k, v) for k, v in backbone.items() if k not in TRAINING))
    if asked.setdefault(key, name) != name:
        return
    backbone.pop('init_cfg', None)
    model = two_blocks(getattr(gcvit_mm, backbone.pop('type')), **backbone)
    with fake_cuda():
        calls = run_on_fake_cuda(model, torch.bfloat16, (800, 1333), batch=1)[1]
        assert calls and {unfused(call) for call in calls} == {''}
