"""One step of training, or of testing, for real or in a shadow."""

from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, Optional

import torch
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from .tracking import Tracker

# What detectors, segmentors and classifiers call of their parts.
CALLED = ('forward', 'loss', 'predict', 'loss_and_predict', 'loss_by_feat', 'predict_by_feat')


def give_memory(model: nn.Module, device: str) -> nn.Module:
    """Put weights and buffers of a model of the meta device on another."""
    made: Dict[int, Any] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, old in tensors.items():
                if old is None:
                    continue
                if id(old) not in made:
                    new: Any = torch.empty_strided(
                        old.shape, old.stride(), dtype=old.dtype, device=device
                    )
                    if isinstance(old, nn.Parameter):
                        new = nn.Parameter(new, old.requires_grad)
                    made[id(old)] = new
                tensors[name] = made[id(old)]
    preprocessor: Any = getattr(model, 'data_preprocessor', None)
    if preprocessor is not None:
        preprocessor._device = torch.device(device)
    return model


def follow_parts(model: nn.Module, tracker: Tracker) -> None:
    """Have a tracker know which part of a model is running, and whose weights are whose."""
    for name, part in model.named_children():
        for called in CALLED:
            if hasattr(part, called):
                setattr(part, called, followed(getattr(part, called), name, tracker))
        for tensor in (*part.parameters(), *part.buffers()):
            tracker.rename(tensor, name, 'weights')
        for parameter in part.parameters():
            if parameter.requires_grad:
                # after each backward pass, also where gradients add up
                parameter.register_post_accumulate_grad_hook(
                    lambda p, name=name: tracker.rename(p.grad, name, 'gradients')
                )


def followed(function: Callable[..., Any], name: str, tracker: Tracker) -> Callable[..., Any]:
    """A function of a part that says so while it runs, and when its gradient begins."""

    def enter(gradient: Tensor) -> None:
        tracker.part = name

    def run(*args: Any, **kwargs: Any) -> Any:
        before, tracker.part = tracker.part, name
        try:
            out = function(*args, **kwargs)
        finally:
            tracker.part = before
        for x in tree_flatten(out)[0]:
            if isinstance(x, Tensor) and x.requires_grad and x.grad_fn is not None:
                x.register_hook(enter)
        return out

    return run


def prime(wrapper: Any, model: nn.Module, keep_gradients: bool = False) -> None:
    """Have an optimizer make its states, as after a first step.

    Args:
        wrapper: The optimizer.
        model: Its model.
        keep_gradients: Leave gradients, as where they are accumulated.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    wrapper.optimizer.step()
    if not keep_gradients:
        wrapper.optimizer.zero_grad()


@contextmanager
def caused(tracker: Optional[Tracker], cause: str) -> Iterator[None]:
    """Say what memory is for that is made in this context."""
    if tracker is None:
        yield
        return
    before, tracker.cause = tracker.cause, cause
    try:
        yield
    finally:
        tracker.cause = before


def build_wrapper(cfg: Any, model: nn.Module, **changes: Any) -> Any:
    """The optimizer of a config in float32, unless changes to its settings say otherwise.

    What --amp adds to it is torch's autocast.
    """
    settings = dict(cfg)
    settings['type'] = 'OptimWrapper'
    for key in ('dtype', 'loss_scale', 'use_fsdp', 'accumulative_counts'):
        settings.pop(key, None)
    settings.update(changes)
    return build_optim_wrapper(model, settings)


def train_step(
    model: Any,
    wrapper: Any,
    batch: Dict[str, Any],
    dtype: Optional[torch.dtype] = None,
    tracker: Optional[Tracker] = None,
) -> None:
    """One step, as :meth:`mmengine.model.BaseModel.train_step` does it."""
    device = next(model.parameters()).device.type
    with torch.autocast(device, dtype, enabled=dtype is not None):
        with caused(tracker, 'input'):
            data = model.data_preprocessor(batch, True)
        with caused(tracker, 'activations'):
            losses = model._run_forward(data, mode='loss')
            loss, _ = model.parse_losses(losses)
    loss = wrapper.scale_loss(loss)
    with caused(tracker, 'backward'):
        wrapper.backward(loss)
    # what the optimizer takes beside its states, :func:`prime` has shown
    wrapper.zero_grad()


def test_step(model: Any, batch: Dict[str, Any], tracker: Optional[Tracker] = None) -> None:
    """One batch of an evaluation, as :meth:`mmengine.model.BaseModel.test_step` does it."""
    with torch.no_grad(), caused(tracker, 'activations'):
        model.test_step(batch)
