"""Gradients of steps that have not reached the optimizer yet."""

from typing import Any, Dict

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn

from .sharding import part_of


def waiting_gradients(model: nn.Module, optim_wrapper: Any) -> Dict[str, Tensor]:
    """What ``accumulative_counts`` has summed up since the last optimizer step.

    Processes add up gradients of their own; returned is their mean, which is what all would have
    after the step.

    Args:
        model: The model, without wrapper.
        optim_wrapper: mmengine's wrapper.

    Returns:
        Gradients by names of parameters, on the CPU; none where nothing waits.
    """
    if getattr(optim_wrapper, 'should_update', lambda: True)():
        return {}
    found = {}
    for name, parameter in model.named_parameters():
        gradient: Any = parameter.grad
        if hasattr(gradient, 'full_tensor'):  # sharded, and the same for all already
            found[name] = gradient.full_tensor().cpu()
        elif gradient is not None:
            found[name] = gradient.detach().clone()
            if get_world_size() > 1:
                all_reduce(found[name], 'mean')
            found[name] = found[name].cpu()
    return found


def put_back(model: nn.Module, gradients: Any) -> None:
    """Give parameters the gradients that :func:`waiting_gradients` has found; others are left."""
    for name, parameter in model.named_parameters():
        gradient = gradients.get(name) if isinstance(gradients, dict) else None
        if isinstance(gradient, torch.Tensor) and gradient.shape == parameter.shape:
            parameter.grad = part_of(parameter, gradient.to(parameter.device, parameter.dtype))
