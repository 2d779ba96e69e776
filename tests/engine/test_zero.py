"""What ZeroStrategy saves and loads, with a stand-in for DeepSpeed; tests/e2e has the real one."""

import copy
import sys
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from gcvit_mm import UserError
from gcvit_mm.cli import check_file
from gcvit_mm.engine.resuming import checkpoint_flaw

deepspeed = pytest.importorskip('mmengine._strategy.deepspeed')
from gcvit_mm.engine.zero import ZeroStrategy, check_zero  # noqa: E402


class Model(nn.Module):
    """With a weight that is not trained, one without dimensions, and a count."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.head = nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.stem.weight.requires_grad = False

    def backward(self, step):
        """Set the gradients of a step."""
        noise = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        self.zero_grad()
        self.head(self.norm(self.stem(noise)) * self.scale).square().mean().backward()


class Divided:
    """An optimizer as DeepSpeed leaves it to one process: each group has one vector of weights."""

    def __init__(self, optimizer):
        self.optimizer, self.weights = optimizer, []
        for group in optimizer.param_groups:
            weights = [w for w in group['params'] if w.requires_grad]
            part = torch.cat([w.detach().flatten() for w in weights])
            ends = torch.tensor([w.numel() for w in weights]).cumsum(0).tolist()
            for weight, end in zip(weights, ends):
                weight.part, weight.place = part, slice(end - weight.numel(), end)
            group['params'] = [nn.Parameter(part)]
            self.weights.append(weights)

    param_groups = property(lambda self: self.optimizer.param_groups)
    state = property(lambda self: self.optimizer.state)

    def step(self):
        """Step with the gradients of the weights."""
        for group, weights in zip(self.param_groups, self.weights):
            group['params'][0].grad = torch.cat([w.grad.flatten() for w in weights])
        self.optimizer.step()
        for weight in sum(self.weights, []):
            weight.data.copy_(kept(weight).view_as(weight))


def kept(weight, key=None):
    """What lies in the vector; None for what is not trained."""
    if hasattr(weight, 'part'):
        return (weight.state[key] if key else weight.part)[weight.place]


def get(weight, key=None):
    """Stand in for what reads weights and moments."""
    part = kept(weight, key)
    return part if part is None else part.clone().view_as(weight)


def put(weight, value, key=None):
    """Stand in for what writes them."""
    part = kept(weight, key)
    if part is not None:
        part.copy_(value.flatten())


def link(weights, part, states):
    """Stand in for what finds moments."""
    for weight in weights:
        weight.state = states[part]


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    """Let the strategy find these functions in the place of DeepSpeed's."""
    utils = SimpleNamespace(
        safe_get_full_fp32_param=get,
        safe_get_full_optimizer_state=get,
        safe_set_full_fp32_param=put,
        safe_set_full_optimizer_state=put,
        lazy_init_hp_params_optimizer_state=link,
    )
    monkeypatch.setitem(sys.modules, 'deepspeed', SimpleNamespace(utils=utils))
    monkeypatch.setitem(sys.modules, 'deepspeed.utils', utils)


def plain():
    """A model and its optimizer, whose first group begins with what is not trained."""
    torch.manual_seed(0)
    model = Model()
    groups = [
        dict(params=[*model.stem.parameters(), model.scale], weight_decay=0.5),
        dict(params=[*model.head.parameters(), *model.norm.parameters()]),
    ]
    return model, torch.optim.AdamW(groups, lr=0.1)


def divided():
    """The same, and a strategy that has divided the optimizer."""
    model, optimizer = plain()
    strategy = ZeroStrategy.__new__(ZeroStrategy)
    strategy.config, strategy.dispatch_kwargs = {}, dict(train_micro_batch_size_per_gpu=4)
    wrapper = deepspeed.DeepSpeedOptimWrapper(optimizer)
    strategy.optim_wrapper = strategy.build_optim_wrapper(wrapper)
    assert strategy.config == strategy.dispatch_kwargs
    engine = SimpleNamespace(module=model)
    strategy.model = deepspeed.MMDeepSpeedEngineWrapper(model=engine)
    strategy.optim_wrapper.optimizer = Divided(optimizer)
    return strategy, model, strategy.optim_wrapper.optimizer


def train(model, optimizer, *steps):
    """Train a few steps."""
    for step in steps:
        model.backward(step)
        optimizer.step()


def test_states_are_those_of_one_optimizer():
    """In torch's own numbers; any optimizer goes on from them as without a break."""
    model, optimizer = plain()
    train(model, optimizer, 1, 2)
    strategy, part, parts = divided()
    with strategy.whole_optimizer():
        assert [len(group['params']) for group in parts.param_groups] == [3, 4]
    train(part, parts, 1, 2)
    weights, state = strategy.model_state_dict(), strategy.optim_state_dict()
    base = state.pop('base_param_settings')
    assert base['lr'] == 0.1
    same(state, optimizer.state_dict())
    same(weights, model.state_dict())
    weights = {name: value.clone() for name, value in weights.items()}
    train(model, optimizer, 3)
    other, alone = plain()
    other.load_state_dict(weights)
    alone.load_state_dict(copy.deepcopy(state))
    train(other, alone, 3)
    same(alone.state_dict(), optimizer.state_dict())
    same(other.state_dict(), model.state_dict())
    strategy, part, parts = divided()
    strategy.load_model_state_dict(weights)
    strategy.load_optim_state_dict(dict(state, base_param_settings=dict(base, lr=0.7)))
    assert strategy.optim_wrapper.base_param_settings['lr'] == 0.7
    train(part, parts, 3)
    state = strategy.optim_state_dict()
    state.pop('base_param_settings')
    same(state, optimizer.state_dict())
    same(strategy.model_state_dict(), model.state_dict())


def same(found, wanted):
    """Compare states, tensor by tensor."""
    if isinstance(wanted, dict):
        assert set(found) == set(wanted)
        for key in wanted:
            same(found[key], wanted[key])
    elif isinstance(wanted, torch.Tensor):
        torch.testing.assert_close(found, wanted)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted):
            same(a, b)
    else:
        assert found == wanted


def test_half_weights_are_saved_in_float32():
    """What is not trained has no other; counts stay whole numbers."""
    strategy, model, _ = divided()
    model.bfloat16()
    kinds = {name: value.dtype for name, value in strategy.model_state_dict().items()}
    assert kinds.pop('norm.num_batches_tracked') == torch.int64
    assert set(kinds.values()) == {torch.float32}


def test_before_the_first_step():
    """An optimizer that knows nothing yet is saved and loaded."""
    strategy, model, optimizer = divided()
    state = strategy.optim_state_dict()
    assert state['state'] == {}
    strategy.load_optim_state_dict(state)
    train(model, optimizer, 1)
    assert set(strategy.optim_state_dict()['state']) == {1, 2, 3, 4, 5, 6}


def test_what_does_not_resume_is_said(monkeypatch, tmp_path):
    """Settings of ZeRO, folders, another wrapper, and DeepSpeed itself."""
    for zero, message in [
        ({}, 'stage is None, but ZeroStrategy has 1 and 2: .*fsdp.py'),
        (dict(stage=3), 'stage is 3'),
        (dict(stage=2, round_robin_gradients=True), 'round_robin_gradients: .*take it out'),
    ]:
        with pytest.raises(UserError, match=message):
            check_zero(zero)
    check_zero(dict(stage=1))
    strategy = divided()[0]
    with pytest.raises(UserError, match='is a folder of DeepSpeed: .*mp_rank_00_model_states.pt'):
        strategy.load_checkpoint(str(tmp_path))
    with pytest.raises(UserError, match='is OptimWrapper, but .* takes DeepSpeedOptimWrapper'):
        strategy.build_optim_wrapper(OptimWrapper(plain()[1]))
    with pytest.raises(UserError, match='--resume .* is a folder: name a file in it'):
        check_file(str(tmp_path), '--resume')
    assert 'is a folder' in checkpoint_flaw(str(tmp_path))
    monkeypatch.setitem(sys.modules, 'deepspeed', None)
    with pytest.raises(UserError, match='not installed: pip install deepspeed'):
        ZeroStrategy()
