"""bfloat16 on a CPU: what computes in it, what is saved, and what a run without a break gives."""

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.structures import InstanceData
from torch import nn

from gcvit_mm import UserError
from gcvit_mm.cli import devices
from gcvit_mm.engine import CPUAmpOptimWrapper
from support.small_run import load, train

OPTIM = dict(
    type='CPUAmpOptimWrapper',
    accumulative_counts=2,
    clip_grad=dict(max_norm=0.1),
    optimizer=dict(type='AdamW', lr=0.05),
)


def model_and(wrapper, **kwargs):
    """A net, its wrapper, and what they gave after three steps on the same numbers."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 1))
    wrapper = wrapper(optimizer=torch.optim.AdamW(net.parameters(), lr=0.01), **kwargs)
    dtypes = []
    for _ in range(3):
        with wrapper.optim_context(net):
            out = net(torch.randn(8, 16))
        dtypes.append(out.dtype)
        wrapper.update_params(out.float().square().mean())
    return net, wrapper, dtypes


@pytest.fixture
def amp(monkeypatch):
    """mmengine's wrapper, which is told that it may do without a GPU."""
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    return AmpOptimWrapper


@pytest.mark.parametrize(
    'more', [{}, dict(accumulative_counts=2), dict(clip_grad=dict(max_norm=0.1))]
)
def test_steps_are_those_of_mmengines_wrapper(amp, more):
    """Bit for bit; the forward pass is in bfloat16, weights and states are not."""
    net, mine, dtypes = model_and(CPUAmpOptimWrapper, **more)
    other, _, _ = model_and(amp, dtype='bfloat16', loss_scale=dict(enabled=False), **more)
    assert dtypes == [torch.bfloat16] * 3
    for a, b in zip(net.parameters(), other.parameters()):
        assert a.dtype == torch.float32 and torch.equal(a, b)
    for state in mine.optimizer.state.values():
        assert state['exp_avg'].dtype == torch.float32


def test_states_go_from_one_wrapper_to_the_other(amp):
    """A run goes on where there is a GPU, and where there is none."""
    _, mine, _ = model_and(CPUAmpOptimWrapper)
    _, theirs, _ = model_and(amp, dtype='bfloat16', loss_scale=dict(enabled=False))
    for source, target in ((theirs, mine), (mine, theirs)):
        for state in source.optimizer.state.values():
            state['exp_avg'].add_(1)
        saved = source.state_dict()
        target.load_state_dict(saved)
        for a, b in zip(source.optimizer.state.values(), target.optimizer.state.values()):
            assert torch.equal(a['exp_avg'], b['exp_avg'])
        assert ('loss_scaler' in saved) == (source is theirs)


def test_a_resumed_run_is_the_whole_one(tmp_path):
    """Losses and weights bit for bit, with gradients that wait for a step."""
    whole = train(tmp_path / 'whole', seed=3, optim_wrapper=OPTIM)
    train(tmp_path / 'broken', stop=7, seed=3, optim_wrapper=OPTIM)
    again = train(tmp_path / 'broken', resume=True, seed=3, optim_wrapper=OPTIM)
    assert again == {step: whole[step] for step in again} and min(again) == 7
    wide = train(tmp_path / 'wide', seed=3, optim_wrapper={**OPTIM, 'type': 'OptimWrapper'})
    first = [list(run.values())[:4] for run in (whole, wide)]
    assert first[0] != first[1] and first[0] == pytest.approx(first[1], rel=0.05)
    states = [load(tmp_path / name / 'iter_12.pth')['state_dict'] for name in ('whole', 'broken')]
    for a, b in zip(*(state.values() for state in states)):
        assert torch.equal(a, b)


# ------------------------------------------------------------------- options of the tools
def test_what_the_option_sets(monkeypatch):
    """On a CPU ours; what a config says of mmengine's is not passed on."""
    cfg = Config(dict(optim_wrapper=dict(type='AmpOptimWrapper', dtype='float16', loss_scale=1.0)))
    monkeypatch.setattr(devices, 'cpu_has_bfloat16', lambda: True)
    monkeypatch.setattr(devices, 'get_device', lambda: 'cpu')
    devices.use_amp(cfg, 'bfloat16')
    assert cfg.optim_wrapper == dict(type='CPUAmpOptimWrapper')
    with pytest.raises(UserError, match='--amp float16 needs a GPU: give --amp'):
        devices.use_amp(cfg, 'float16')
    monkeypatch.setattr(devices, 'get_device', lambda: 'cuda')
    devices.use_amp(cfg, 'float16')
    assert cfg.optim_wrapper == dict(type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic')


def test_processors_without_bfloat16(monkeypatch):
    """They would be slower; one line says so."""
    monkeypatch.setattr(devices, 'cpu_has_bfloat16', lambda: False)
    monkeypatch.setattr(devices, 'get_device', lambda: 'cpu')
    line = '--amp: this processor has no instructions for bfloat16'
    with pytest.raises(UserError, match=line):
        devices.use_amp(Config(dict(optim_wrapper=dict(type='OptimWrapper'))), 'bfloat16')
    with pytest.raises(UserError, match=line):
        devices.predict_in_bfloat16(nn.Linear(1, 1), 'cpu')


def test_results_are_wide():
    """Floating point numbers, also inside; labels and masks stay what they are."""
    found = InstanceData(
        scores=torch.ones(2, dtype=torch.bfloat16),
        labels=torch.arange(2),
        masks=torch.ones(2, 3, 3, dtype=torch.bool),
    )
    wide = devices.widen(InstanceData(inner=found))
    dtypes = [wide.inner[key].dtype for key in ('scores', 'labels', 'masks')]
    assert dtypes == [torch.float32, torch.int64, torch.bool]
