"""Detectors on a GPU: two steps in float32, bfloat16 and float16."""

import pytest
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper

pytest.importorskip('mmdet')

from support.detectors import SMALL, train
from support.devices import needs_gpu

pytestmark = needs_gpu


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
@pytest.mark.parametrize('name', SMALL)
def test_two_steps(name, dtype):
    """Losses are finite, and near those of float32 on the CPU."""

    def wrap(optimizer):
        if dtype == 'float32':
            return OptimWrapper(optimizer)
        scale = 'dynamic' if dtype == 'float16' else dict(enabled=False)
        return AmpOptimWrapper(optimizer=optimizer, dtype=dtype, loss_scale=scale)

    wanted = train(name, OptimWrapper)
    found = train(name, wrap, 'cuda')
    for step, (a, b) in enumerate(zip(wanted, found)):
        assert a.keys() == b.keys()
        assert torch.tensor(list(b.values())).isfinite().all()
        # what is drawn on a GPU are other numbers
        assert b['loss'] == pytest.approx(a['loss'], rel=0.25), step
