"""mmcv's operator of deformable attention, which runs on GPUs only."""

import pytest
import torch

from gcvit_mm.layers.deform_attn import has_mmcv_op, sample_mmcv, sample_torch
from support.devices import needs_gpu
from support.sampling import MAPS, results, sampled

pytestmark = [
    needs_gpu,
    pytest.mark.skipif(not has_mmcv_op(), reason='needs mmcv with compiled operators'),
]


@pytest.mark.parametrize('maps', [MAPS, MAPS[:1]], ids=str)
def test_equals_plain_torch(maps):
    """Output and gradients."""
    arguments = [t.detach().cuda().requires_grad_() for t in sampled(maps, 50, 6, 36, torch.float)]
    got = results(sample_mmcv, arguments, maps)
    for a, b in zip(got, results(sample_torch, arguments, maps)):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
