"""Something to measure that grows only where a test lets it grow."""

import torch


class Ticks:
    """A counter; it is read by calling it."""

    def __init__(self):
        self.value = 0

    def __call__(self):
        return self.value

    def pass_on(self, value, forward=0, backward=0):
        """A tensor as it is, for a price in both directions."""
        return Costly.apply(value, self, forward, backward)


class Costly(torch.autograd.Function):
    """Lets ticks grow, forward and backward."""

    @staticmethod
    def forward(ctx, x, ticks, forward, backward):
        ticks.value += forward
        ctx.ticks, ctx.price = ticks, backward
        return x * 1

    @staticmethod
    def backward(ctx, gradient):
        ctx.ticks.value += ctx.price
        return gradient, None, None, None
