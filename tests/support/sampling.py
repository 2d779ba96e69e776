"""Sampling of maps at points, as deformable attention does it: arguments, output, gradients."""

import torch

from support.gpvit_reference import POINTS

MAPS = [(6, 9), (3, 5), (2, 1)]


def sampled(maps, queries=7, heads=3, d=4, dtype=torch.double):
    """Arguments of the sampling functions; some points lie outside of the maps."""
    value = torch.randn(2, sum(h * w for h, w in maps), heads, d, dtype=dtype)
    locations = torch.randn(2, queries, heads, len(maps), POINTS, 2, dtype=dtype) * 0.5 + 0.5
    weights = torch.randn(2, queries, heads, len(maps) * POINTS, dtype=dtype).softmax(-1)
    weights = weights.unflatten(-1, (len(maps), POINTS))
    return [t.requires_grad_() for t in (value, locations, weights)]


def results(function, arguments, maps):
    """Output of a sampling function and its gradients for a fixed direction."""
    value, locations, weights = arguments
    out = function(value, maps, locations, weights)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return out, *torch.autograd.grad((out * direction).sum(), arguments)
