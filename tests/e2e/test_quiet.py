"""What libraries say of what nobody asked for is not shown."""

import pytest

from support.own_process import python
from support.running import CLS, DET, SEG

READ = """
import sys
from gcvit_mm import cli
from mmengine.registry import init_default_scope
for path in sys.argv[1:]:
    cfg = cli.load_config(path)
    init_default_scope(cfg.default_scope)
    __import__(f'{cfg.default_scope}.evaluation')
"""


def test_reading_a_config_says_nothing():
    """Every command and ``gcvit_mm.load`` read one first, and import its library so."""
    for name in ('mmdet', 'mmseg', 'mmpretrain'):
        pytest.importorskip(name)
    assert python(['-c', READ, DET, SEG, CLS]) == (0, '')
