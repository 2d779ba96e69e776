"""The clock of tools/benchmark.py --step: what belongs to which part, in ticks."""

import pytest
import torch
from benchmark.clock import REST, Clock, Part
from torch.utils.checkpoint import checkpoint

from support.ticks import Ticks


def test_time_is_of_the_part_that_runs():
    """What a part calls of another is the other's; what the clock does is nobody's."""
    ticks = Ticks()
    clock = Clock(ticks)

    def spend(count):
        ticks.value += count

    inner = clock.follow(spend, 'inner')

    def both(count):
        spend(1)
        inner(count)
        spend(1)
        inner(count)

    outer = clock.follow(both, 'outer')
    spend(4)
    outer(10)
    inner(100)
    with clock.paused():
        spend(1000)
    spend(4)
    clock.settle()
    assert clock.spent == {Part('outer'): 2, Part('inner'): 120, Part(REST): 8}


def test_an_error_ends_its_part():
    clock = Clock(Ticks())

    def fail():
        raise ValueError

    with pytest.raises(ValueError):
        clock.follow(fail, 'part')()
    assert clock.stack == [Part(REST)]


def test_nodes_belong_to_the_part_that_made_them():
    """Two branches, work between the parts, and a part inside of another."""
    ticks = Ticks()
    clock = Clock(ticks)
    trunk = clock.follow(lambda x: ticks.pass_on(x, 1, 2), 'trunk')
    left = clock.follow(lambda x: ticks.pass_on(x.relu(), 10, 20), 'left')
    right = clock.follow(lambda x: dict(out=[ticks.pass_on(x.exp(), 100, 200)]), 'right')

    def twice(x):
        x = ticks.pass_on(x, 1000, 2000)
        x = left(x)
        return ticks.pass_on(x, 1000, 2000)

    outer = clock.follow(twice, 'outer')
    x = torch.randn(3, requires_grad=True)
    maps = trunk(x)
    between = ticks.pass_on(maps, 10_000, 20_000)
    loss = left(maps).sum() + right(between)['out'][0].sum() + outer(between).sum()
    clock.follow_backward(lambda loss: loss.backward())(loss)
    clock.settle()
    assert {part: count for part, count in clock.spent.items() if count} == {
        Part('trunk'): 1,
        Part('trunk', True): 2,
        Part('left'): 20,
        Part('left', True): 40,
        Part('right'): 100,
        Part('right', True): 200,
        Part('outer'): 2000,
        Part('outer', True): 4000,
        Part(REST): 10_000,
        Part(REST, True): 20_000,
    }
    assert sum(clock.spent.values()) == ticks.value
    assert not clock.owners  # the graph can go


@pytest.mark.parametrize('reentrant', [False, True])
def test_what_is_repeated_is_backward(reentrant):
    """A checkpoint inside of a part, and one around a part, run their forward passes again."""
    ticks = Ticks()
    clock = Clock(ticks)

    def work(x):
        return ticks.pass_on(x, 1, 10).sin()  # which needs what stands before it

    def repeated(function):
        return lambda x: checkpoint(function, x, use_reentrant=reentrant).exp()

    inside = clock.follow(repeated(work), 'inside')
    around = clock.follow(repeated(clock.follow(work, 'within')), 'around')
    x = torch.randn(3, requires_grad=True)
    clock.follow_backward(lambda loss: loss.backward())(around(inside(x)).sum())
    clock.settle()
    assert clock.spent[Part('inside')] == 1 and clock.spent[Part('inside', True)] == 11
    assert clock.spent[Part('within')] == 1
    repeats = [clock.spent[Part(name, True)] for name in ('around', 'within')]
    assert sum(repeats) == 11 and sum(clock.spent.values()) == ticks.value == 24
