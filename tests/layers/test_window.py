"""Cutting maps into windows and putting them together again."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gcvit_mm.layers import (
    merge,
    pad_to_windows,
    padded_size,
    padding_mask,
    partition,
    to_2tuple,
)

few = settings(max_examples=25, deadline=None, derandomize=True, database=None)
sides = st.integers(1, 6)
counts = st.integers(1, 4)
# name: (height, width, window, dilated)
KINDS = {
    'square': (6, 9, (3, 3), False),
    'rectangular': (8, 15, (4, 5), False),
    'vertical stripes': (7, 6, (7, 2), False),
    'horizontal stripes': (6, 7, (2, 7), False),
    'single tokens': (2, 3, (1, 1), False),
    'whole map': (4, 5, (4, 5), False),
    'dilated square': (6, 9, (3, 3), True),
    'dilated rectangular': (8, 15, (2, 5), True),
}


def numbered_map(batch, height, width):
    """A map (B, H, W, 3) whose every token holds (image, row, column)."""
    axes = (torch.arange(batch), torch.arange(height), torch.arange(width))
    return torch.stack(torch.meshgrid(*axes, indexing='ij'), -1)


def position(window, token, grid, size, dilated):
    """Row and column of a token of a window, counted out one by one."""
    r, c = divmod(window, grid[1])
    y, x = divmod(token, size[1])
    return (r + y * grid[0], c + x * grid[1]) if dilated else (r * size[0] + y, c * size[1] + x)


@pytest.mark.parametrize('kind', KINDS)
def test_tokens_of_every_window(kind):
    """Windows are ordered by image, row, column; tokens row-major; dilated ones are a grid."""
    height, width, size, dilated = KINDS[kind]
    grid = height // size[0], width // size[1]
    windows = partition(numbered_map(2, height, width), size, dilated)
    assert windows.shape == (2, grid[0] * grid[1], size[0] * size[1], 3)
    for b in range(2):
        for window in range(grid[0] * grid[1]):
            for token in range(size[0] * size[1]):
                y, x = position(window, token, grid, size, dilated)
                assert windows[b, window, token].tolist() == [b, y, x]


def test_dilated_window_spelled_out():
    """A dilated window of a 4x6 map takes every second row and every third column."""
    windows = partition(numbered_map(1, 4, 6), (2, 2), dilated=True)
    first, second = windows[0, 0, :, 1:].tolist(), windows[0, 1, :, 1:].tolist()
    assert first == [[0, 0], [0, 3], [2, 0], [2, 3]]
    assert second == [[0, 1], [0, 4], [2, 1], [2, 4]]


@few
@given(h=sides, w=sides, rows=counts, cols=counts, batch=st.integers(1, 3), dilated=st.booleans())
def test_merge_is_the_inverse_of_partition(h, w, rows, cols, batch, dilated):
    """Whatever the window, nothing is lost or moved, and partition inverts merge too."""
    x = torch.arange(batch * rows * h * cols * w * 2.0).view(batch, rows * h, cols * w, 2)
    windows = partition(x, (h, w), dilated)
    assert torch.equal(merge(windows, (h, w), rows * h, cols * w, dilated), x)
    other = torch.randn(windows.shape)
    back = partition(merge(other, (h, w), rows * h, cols * w, dilated), (h, w), dilated)
    assert torch.equal(back, other)


def test_partition_of_a_permuted_map():
    """Maps that come from NCHW by a permutation need no copy beforehand."""
    x = torch.randn(2, 5, 6, 9).permute(0, 2, 3, 1)
    for dilated in (False, True):
        windows = partition(x, (3, 3), dilated)
        assert torch.equal(windows, partition(x.contiguous(), (3, 3), dilated))
        assert torch.equal(merge(windows, (3, 3), 6, 9, dilated), x)


@few
@given(height=st.integers(1, 30), width=st.integers(1, 30), h=sides, w=sides)
def test_padded_size_is_the_smallest_multiple(height, width, h, w):
    """Padding adds less than one window on each axis."""
    hp, wp = padded_size(height, width, (h, w))
    assert hp % h == 0 and wp % w == 0
    assert height <= hp < height + h and width <= wp < width + w


@few
@given(height=st.integers(1, 12), width=st.integers(1, 12), h=sides, w=sides)
def test_padding_adds_zeros_at_the_bottom_and_right(height, width, h, w):
    """The map itself stays where it is."""
    x = torch.ones(2, height, width, 3)
    padded = pad_to_windows(x, (h, w))
    assert tuple(padded.shape) == (2, *padded_size(height, width, (h, w)), 3)
    assert torch.equal(padded[:, :height, :width], x)
    assert padded.sum() == x.sum()


def test_nothing_is_copied_where_nothing_is_padded():
    """A map that divides is returned as it is."""
    x = torch.randn(1, 6, 8, 2)
    assert pad_to_windows(x, (3, 4)) is x


@few
@given(height=st.integers(1, 12), width=st.integers(1, 12), h=sides, w=sides, dilated=st.booleans())
def test_padding_mask_names_the_real_tokens(height, width, h, w, dilated):
    """Exactly the tokens inside the map are real, and each window has at least one."""
    mask = padding_mask(height, width, (h, w), torch.device('cpu'), dilated)
    hp, wp = padded_size(height, width, (h, w))
    grid = hp // h, wp // w
    assert mask.dtype == torch.bool and mask.shape == (grid[0] * grid[1], h * w)
    for window in range(mask.shape[0]):
        for token in range(mask.shape[1]):
            y, x = position(window, token, grid, (h, w), dilated)
            assert mask[window, token].item() == (y < height and x < width)
    assert mask.sum() == height * width
    assert mask.any(1).all()


@pytest.mark.parametrize('dilated', [False, True])
@pytest.mark.parametrize('shape', [(7, 6), (6, 7)])
def test_partition_refuses_maps_that_do_not_divide(shape, dilated):
    """The error names both sizes and the function that helps."""
    with pytest.raises(ValueError, match=f'{shape[0]}x{shape[1]} map.*3x3 windows.*pad_to_wind'):
        partition(torch.zeros(1, *shape, 1), (3, 3), dilated)


def test_merge_refuses_another_number_of_windows():
    """Windows of another map are an error, not a scrambled map."""
    windows = partition(torch.zeros(1, 6, 6, 1), (3, 3))
    with pytest.raises(RuntimeError):
        merge(windows, (3, 3), 6, 9)


def test_to_2tuple():
    """An int stands for both sides; lists, as configs hold them, are fine."""
    assert to_2tuple(7) == (7, 7)
    assert to_2tuple((3, 5)) == (3, 5)
    assert to_2tuple([3, 5]) == (3, 5)


@pytest.mark.parametrize('value', [0, -1, (3,), (3, 4, 5), (0, 3), (3, 2.5), 'ab', 3.5, None])
def test_to_2tuple_refuses_everything_else(value):
    """The error names the argument and shows its value."""
    with pytest.raises(ValueError, match='window must be a positive int or a pair'):
        to_2tuple(value, 'window')
