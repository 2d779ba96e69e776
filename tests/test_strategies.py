"""Sharded training: whose checkpoints are whose, and what is sharded."""

import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import FUNCTIONS, MODELS, STRATEGIES, init_default_scope
from running import ENV, ROOT
from test_backbones import FAMILIES, make

from gcvit_mm.checkpoints import load_model
from gcvit_mm.engine import launch
from gcvit_mm.engine.sharding import wrap_blocks

FRAGMENTS = sorted((ROOT / 'configs/strategies').glob('*.py'))


@pytest.mark.parametrize('family', FAMILIES)
def test_every_block_is_a_unit(family):
    """As many units as blocks, none inside another."""
    model = make(family)
    units = [name for name, m in model.named_modules() if wrap_blocks(m, False, 0)]
    assert len(units) == sum(model.depths)
    assert not any(a != b and b.startswith(f'{a}.') for a in units for b in units)
    assert all(wrap_blocks(m, True, 0) for m in model.modules())
    assert FUNCTIONS.get('wrap_blocks') is wrap_blocks


@pytest.mark.parametrize('path', FRAGMENTS, ids=lambda path: path.stem)
def test_fragments(path, tmp_path):
    """Each names a strategy that mmengine has, and can be a base beside any leaf."""
    assert STRATEGIES.get(Config.fromfile(path).strategy.type) is not None
    leaf = ROOT / 'configs/upernet_gcvit_t_160k.py'
    both = tmp_path / 'both.py'
    both.write_text(f"_base_ = ['{leaf}', '{path}']\n")
    cfg, alone = Config.fromfile(both), Config.fromfile(leaf)
    assert set(cfg) - set(alone) == {'runner_type', 'strategy'}
    assert cfg.runner_type == 'FlexibleRunner'


def train_sharded(work_dir, data_root, rate, checkpoint=''):
    """Two processes, two steps."""
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    command += ['--nproc_per_node', '2', str(ROOT / 'tests/sharded_run.py')]
    command += [str(work_dir), str(data_root), str(rate), str(checkpoint)]
    env = dict(ENV, PYTHONPATH=f'{ROOT}:{ROOT / "tests"}')
    done = subprocess.run(
        command, env=env, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return work_dir / 'iter_2.pth'


def test_checkpoints_of_fsdp_are_anyones(shapes, tmp_path):
    """One process loads what FSDP wrote, and FSDP starts from what one process wrote."""
    cfg = launch.load_config(str(ROOT / 'configs/cls_gcvit_xxt_shapes.py'))
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'single.pth')
    start = {name: p.detach().clone() for name, p in model.named_parameters()}

    trained = train_sharded(
        tmp_path / 'sharded', shapes / 'imagenet', 1e-4, tmp_path / 'single.pth'
    )
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    load_model(model, str(trained), trust_checkpoint=True)
    for name, p in model.named_parameters():
        # two steps of AdamW go no further than twice the rate: it started from these weights
        moved = (p.detach() - start[name]).abs().max().item()
        assert 0 < moved <= 2.1e-4, name
    content = torch.load(trained, weights_only=False)
    assert len(content['optimizer']['state']) == len(start)
