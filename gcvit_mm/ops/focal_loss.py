"""Focal loss (arXiv 1708.02002) of sigmoids and of a softmax, in plain torch."""

import torch
from torch import Tensor

from .boxes import widened

TINY = 1.17549435e-38  # smallest normal float32: the least probability a logarithm is taken of


def class_weight(weight: Tensor, target: Tensor, like: Tensor) -> Tensor:
    """Weights (N,) of targets; 1 for those that are no class (background, ignored)."""
    if not weight.numel():
        return torch.ones_like(target, dtype=like.dtype)
    known = (target >= 0) & (target < len(weight))
    chosen = weight.to(like.dtype)[target.clamp(0, len(weight) - 1)]
    return torch.where(known, chosen, torch.ones_like(chosen))


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss of every class of every sample.

    Args:
        input: Logits (N, C).
        target: Classes (N,); a number that is no class (C, or negative) is background.
        weight: Weights of classes (C,), or empty.
        output: (N, C); written.
        gamma: Exponent.
        alpha: Weight of the positive class.
    """
    x = widened(input)
    p = x.sigmoid()
    positive = target[:, None] == torch.arange(x.shape[1], device=x.device)
    of_target = torch.where(positive, p, 1 - p)
    scale = torch.where(positive, p.new_tensor(alpha), p.new_tensor(1 - alpha))
    loss = -scale * (1 - of_target) ** gamma * of_target.clamp(min=TINY).log()
    output.copy_(loss * class_weight(weight, target, p)[:, None])


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Gradient of :func:`sigmoid_focal_loss_forward`; ``grad_input`` (N, C) is written."""
    x = widened(input)
    p = x.sigmoid()
    positive = target[:, None] == torch.arange(x.shape[1], device=x.device)
    of_target = torch.where(positive, p, 1 - p)
    scale = torch.where(positive, p.new_tensor(-alpha), p.new_tensor(1 - alpha))
    other = 1 - of_target
    slope = other - gamma * of_target * of_target.clamp(min=TINY).log()
    grad_input.copy_(scale * other**gamma * slope * class_weight(weight, target, p)[:, None])


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss of the target's probability.

    Args:
        input: Probabilities (N, C).
        target: Classes (N,); those that are no class cost nothing.
        weight: Weights of classes (C,), or empty.
        output: (N,); written.
        gamma: Exponent.
        alpha: Factor of the loss.
    """
    p = widened(input)
    known = (target >= 0) & (target < p.shape[1])
    p = p.gather(1, target.clamp(0, p.shape[1] - 1)[:, None])[:, 0]
    loss = -alpha * (1 - p) ** gamma * p.clamp(min=TINY).log()
    output.copy_(loss * class_weight(weight, target, p) * known)


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Gradient of :func:`softmax_focal_loss_forward` by the logits.

    Args:
        input: Probabilities (N, C).
        target: As there.
        weight: As there.
        buff: (N,); written, the gradient's factor.
        grad_input: (N, C); written.
        gamma: As there.
        alpha: As there.
    """
    every = widened(input)
    known = (target >= 0) & (target < every.shape[1])
    label = target.clamp(0, every.shape[1] - 1)[:, None]
    p = every.gather(1, label)[:, 0]
    slope = gamma * (1 - p).clamp(min=TINY) ** (gamma - 1) * p * p.clamp(min=TINY).log()
    factor = alpha * (slope - (1 - p) ** gamma) * class_weight(weight, target, p) * known
    buff.copy_(factor)
    grad_input.copy_(factor[:, None] * (torch.zeros_like(every).scatter(1, label, 1) - every))
