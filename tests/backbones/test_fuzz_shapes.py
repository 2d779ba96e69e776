"""Images of any shape, drawn by hypothesis."""

import functools

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from support.families import FAMILIES, make
from support.fuzzing import fuzz


@functools.lru_cache(maxsize=None)
def backbone(family):
    """A small backbone, built once."""
    return make(family)


@pytest.mark.parametrize('family', FAMILIES)
@fuzz(12)
@example(size=(1, 1), batch=1)
@example(size=(1, 4000), batch=1)
@example(size=(4000, 1), batch=1)
@given(size=st.tuples(st.integers(1, 70), st.integers(1, 70)), batch=st.integers(1, 2))
def test_any_shape_trains(family, size, batch):
    """One pixel and four thousand in a row: finite maps, and finite gradients wherever any.

    BN over a single value cannot train; torch says so.
    """
    model = backbone(family).train()
    model.zero_grad()
    images = torch.randn(batch, 3, *size)
    try:
        maps = model(images)
    except ValueError as error:
        assert 'more than 1 value per channel' in str(error) and max(size) <= 32 and batch == 1
        maps = model.eval()(images)
    assert all(m.shape[0] == batch and m.numel() and m.isfinite().all() for m in maps)
    sum(m.square().mean() for m in maps).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
