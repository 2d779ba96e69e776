"""What is sharded, and the fragments of configs that name a strategy."""

import pytest
from mmengine.config import Config
from mmengine.registry import FUNCTIONS, STRATEGIES

from gcvit_mm.engine.sharding import wrap_blocks
from support.families import FAMILIES, make
from support.running import ROOT

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
