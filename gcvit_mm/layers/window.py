"""Cutting channels-last maps into windows and putting them together again.

One pair of functions serves every family, because their windows differ only in size and in
whether the tokens of a window are neighbours:

=================== ============================ =========================
windows             ``size``                     ``dilated``
=================== ============================ =========================
square              ``(7, 7)``                   ``False``
rectangular         ``(12, 20)``                 ``False``
vertical stripes    ``(H, 2)``                   ``False``
horizontal stripes  ``(2, W)``                   ``False``
dilated (grid)      ``(7, 7)``                   ``True``
=================== ============================ =========================

Maps have the shape (B, H, W, C). Windows are ordered image by image, then by window row, then
by window column; the tokens of a window are row-major.
"""

from typing import Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from .tracing import known_equal

Size = Tuple[int, int]


def to_2tuple(value: Union[int, Sequence[int]], name: str = 'size') -> Size:
    """Return ``(height, width)`` from an int or a pair.

    Args:
        value: One int for both sides, or ``(height, width)``.
        name: What the value is called in the error message.

    Raises:
        ValueError: If it is neither a positive int nor a pair of positive ints.
    """
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or not all(isinstance(v, int) and v > 0 for v in pair):
        raise ValueError(f'{name} must be a positive int or a pair of them, got {value!r}')
    return pair[0], pair[1]


def padded_size(height: int, width: int, size: Size) -> Size:
    """Return the smallest multiple of ``size`` that holds a ``height`` x ``width`` map."""
    rows, cols = (height + size[0] - 1) // size[0], (width + size[1] - 1) // size[1]
    return rows * size[0], cols * size[1]


def pad_to_windows(x: Tensor, size: Size) -> Tensor:
    """Zero-pad a map at its bottom and right to a multiple of the window.

    Args:
        x: Map (B, H, W, C).
        size: Window ``(height, width)`` in tokens.

    Returns:
        Map (B, Hp, Wp, C); ``x`` itself where nothing is to be padded.
    """
    height, width = x.shape[1:3]
    hp, wp = padded_size(height, width, size)
    if known_equal((hp, wp), (height, width)):
        return x
    return F.pad(x, (0, 0, 0, wp - width, 0, hp - height))


def pad_image(x: Tensor, multiple: int) -> Tensor:
    """Zero-pad images (B, C, H, W) at their bottom and right to multiples of some pixels."""
    height, width = x.shape[2:]
    hp, wp = padded_size(height, width, (multiple, multiple))
    if known_equal((hp, wp), (height, width)):
        return x
    return F.pad(x, (0, wp - width, 0, hp - height))


def crop(x: Tensor, height: int, width: int, offset: int = 0, first: int = 1) -> Tensor:
    """Take rows ``offset`` to ``height`` and columns ``offset`` to ``width`` out of a map.

    Split and not sliced: a slice compares its end with the size, which must not be asked of
    symbols (see :func:`known_equal`).

    Args:
        x: Map (B, H, W, C), or another tensor whose axis ``first`` is H and the next one W.
        height: Row after the last.
        width: Column after the last.
        offset: First row and column.
        first: Axis of the rows.
    """
    if known_equal((offset, *x.shape[first : first + 2]), (0, height, width)):
        return x
    for dim, end in ((first, height), (first + 1, width)):
        x = x.split([offset, end - offset, x.shape[dim] - end], dim)[1]
    return x


def partition(x: Tensor, size: Size, dilated: bool = False) -> Tensor:
    """Cut a map into windows.

    Args:
        x: Map (B, H, W, C), its sides multiples of ``size``.
        size: Window ``(height, width)`` in tokens.
        dilated: Take every (H / height)-th row and (W / width)-th column for one window
            instead of neighbouring ones.

    Returns:
        Windows (B, num_windows, height * width, C).

    Raises:
        ValueError: If the map is not a multiple of the window.
    """
    b, height, width, c = x.shape
    if height % size[0] or width % size[1]:
        raise ValueError(
            f'a {height}x{width} map does not divide into {size[0]}x{size[1]} windows: '
            'pad it with pad_to_windows first'
        )
    rows, cols = height // size[0], width // size[1]
    if dilated:
        x = x.view(b, size[0], rows, size[1], cols, c).permute(0, 2, 4, 1, 3, 5)
    else:
        x = x.view(b, rows, size[0], cols, size[1], c).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(b, rows * cols, size[0] * size[1], c)


def merge(windows: Tensor, size: Size, height: int, width: int, dilated: bool = False) -> Tensor:
    """Put windows back into a map: the inverse of :func:`partition`.

    Args:
        windows: Windows (B, num_windows, size[0] * size[1], C).
        size: Window ``(height, width)`` in tokens.
        height: Height of the map, a multiple of ``size[0]``.
        width: Width of the map, a multiple of ``size[1]``.
        dilated: As given to :func:`partition`.

    Returns:
        Map (B, height, width, C).
    """
    b, c = windows.shape[0], windows.shape[-1]
    rows, cols = height // size[0], width // size[1]
    x = windows.view(b, rows, cols, size[0], size[1], c)
    x = x.permute(0, 3, 1, 4, 2, 5) if dilated else x.permute(0, 1, 3, 2, 4, 5)
    return x.reshape(b, height, width, c)


def key_mask(
    q: Tensor,
    height: int,
    width: int,
    size: Size,
    dilated: bool = False,
    offset: int = 0,
    extra: int = 0,
) -> Tensor:
    """Mask that hides the padded tokens of the windows of a map from all queries.

    Args:
        q: Queries (B * num_windows, heads, N, d), for batch, dtype and device.
        height: Height of the map before padding.
        width: Width of the map before padding.
        size: Window ``(height, width)`` in tokens.
        dilated: As given to :func:`partition`.
        offset: Rows and columns at the top and left that are padding too.
        extra: Keys after those of the window that all may see.

    Returns:
        Tensor (B * num_windows, 1, N, size[0] * size[1] + extra), to be added to the logits: 0,
        or minus infinity for hidden keys.
    """
    real = padding_mask(height, width, size, q.device, dilated, offset)
    hidden = torch.cat((~real, real.new_zeros(real.shape[0], extra)), dim=1)
    mask = q.new_zeros(hidden.shape).masked_fill_(hidden, float('-inf'))
    mask = mask.repeat(q.shape[0] // mask.shape[0], 1)[:, None, None, :]
    return mask.expand(-1, -1, q.shape[2], -1)


def padding_mask(
    height: int,
    width: int,
    size: Size,
    device: torch.device,
    dilated: bool = False,
    offset: int = 0,
) -> Tensor:
    """Tell which tokens of the windows of a padded map are real.

    Args:
        height: Height of the map before padding.
        width: Width of the map before padding.
        size: Window ``(height, width)`` in tokens.
        device: Where to create the mask.
        dilated: As given to :func:`partition`.
        offset: Rows and columns at the top and left that are padding too.

    Returns:
        Bool tensor (num_windows, size[0] * size[1]), ``True`` for real tokens.
    """
    real = torch.ones(1, height - offset, width - offset, 1, dtype=torch.bool, device=device)
    real = F.pad(real, (0, 0, offset, 0, offset, 0))
    return partition(pad_to_windows(real, size), size, dilated)[0, ..., 0]
