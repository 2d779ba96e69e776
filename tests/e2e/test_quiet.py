"""What libraries say of what nobody asked for is not shown."""

import pytest

from support.own_process import python
from support.running import CLS, DET, SEG

READ = """
import sys
from gcvit_mm import cli
from mmengine.registry import init_default_scope
cfg = cli.load_config(sys.argv[1])
init_default_scope(cfg.default_scope)
__import__(f'{cfg.default_scope}.evaluation')
"""


@pytest.mark.parametrize('config', [DET, SEG, CLS])
def test_reading_a_config_says_nothing(config):
    """Every command and ``gcvit_mm.load`` read one first, and import its library so."""
    assert python(['-c', READ, config]) == (0, '')
