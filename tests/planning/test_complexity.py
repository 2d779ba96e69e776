"""Counting multiply-accumulates."""

import pytest
import torch

from gcvit_mm.planning.complexity import build_on_meta, count_macs
from support.configs import read_config

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')


def test_macs_of_windows_24():
    """The released setting costs 351 G; a count that ignored attention would not show it."""
    model = build_on_meta(read_config('mask_gcvit_t_w24_3x'))
    assert count_macs(model, (800, 1280))['total'] == pytest.approx(351, rel=0.005)


def test_macs_of_a_known_layer():
    """One linear layer is counted as in x out, once a token."""
    from torch import nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Conv2d(3, 8, 1)
            self.head = nn.Conv2d(8, 2, 3, padding=1)

    with torch.device('meta'):
        model = Model()
    macs = count_macs(model, (10, 20))
    assert macs['backbone'] == pytest.approx(200 * 3 * 8 / 1e9)
    assert macs['head'] == pytest.approx(200 * 8 * 2 * 9 / 1e9)
