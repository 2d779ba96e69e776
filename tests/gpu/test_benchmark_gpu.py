"""tools/benchmark.py --step on a GPU: parts are the same as on a CPU. No time is judged."""

import pytest
import torch

pytest.importorskip('mmdet')

from benchmark import runs
from benchmark.suites import Setting

from support.devices import needs_gpu
from support.running import DET, ROOT

pytestmark = needs_gpu


@pytest.mark.parametrize('mode', ['training', 'forward'])
@pytest.mark.parametrize('dtype', ['bf16', 'fp16'])
def test_parts(mode, dtype):
    """Those of float32 on the CPU, with about the GMACs of the backbone."""
    cfg = runs.read_config(str(ROOT / DET), None, None)
    wanted = runs.make_run(cfg, mode, [(64, 96)], 1, Setting()).gmacs()
    run = runs.make_run(cfg, mode, [(64, 96)], 1, Setting(dtype=dtype, device='cuda'))
    run.timed()
    assert set(run.rounds[0]) == set(wanted)
    counted = run.gmacs()
    assert counted[runs.Part('backbone')] == pytest.approx(wanted[runs.Part('backbone')])
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
