"""Where a pixel looks: the attention weights of its token, put back on the map."""

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.gg_deit import GGTokenAttention
from ..backbones.gpvit import StripeAttention
from ..backbones.group_propagation import Grouping
from ..backbones.scalablevit import ScalableAttention
from ..errors import UserError
from ..layers import GlobalAttention, WindowAttention, pad_to_windows, partition
from .recording import Call, Size, attention_of, cell_side, find_blocks, find_groups, kind_of, run


class Places(NamedTuple):
    """Where the tokens of a call lie: cells of a map, row by row, -1 for what lies nowhere."""

    queries: Tensor  # (B, N), cells of the map of the layer
    keys: Tensor  # (B, M), cells of the map of the keys
    merged: int = 1  # side of the square of map cells that is one cell of the keys


class AttentionMap(NamedTuple):
    """What the token of a pixel looks at in one block, or the groups of all tokens.

    Attributes:
        name: Name of the block in the backbone.
        kind: What the block attends to, in words.
        values: Map (h, w). Weights, the mean of all heads, which sum to 1; or, where ``groups``,
            the int64 number of the group token of each cell.
        seen: Bool map (h, w), the cells that are keys of the token, or in the groups wanted.
        cell: Height and width of a cell in pixels of the image.
        elsewhere: Share of the attention that went to padding or a class token. It is left
            out of ``values``.
        groups: Number of group tokens; 0 for weights.
    """

    name: str
    kind: str
    values: Tensor
    seen: Tensor
    cell: Tuple[float, float]
    elsewhere: float = 0.0
    groups: int = 0


# ---------------------------------------------------------------------- which token lies where
def _cells(size: Size) -> Tensor:
    """Numbers of the cells of a map, (1, H, W, 1), from 1: the padding's zeros are no cell."""
    return torch.arange(1, size[0] * size[1] + 1).view(1, *size, 1)


def _windows(size: Size, window: Size, dilated: bool = False, offset: int = 0) -> Tensor:
    """Cells (num_windows, N) of the tokens of windows, -1 for padding."""
    cells = F.pad(_cells(size), (0, 0, offset, 0, offset, 0))
    return partition(pad_to_windows(cells, window), window, dilated)[0, ..., 0] - 1


def _window_places(layer: Any, size: Size) -> List[Places]:
    cells = _windows(size, layer.window_size, layer.dilated, layer.offset)
    return [Places(cells, cells)]


def _glance_places(layer: Any, size: Size) -> List[Places]:
    cells = _windows(size, layer.window_size, dilated=True)
    return [Places(cells, cells)]


def _stripe_places(layer: Any, size: Size) -> List[Places]:
    stripes = (size[0], layer.stripe), (layer.stripe, size[1])
    return [Places(cells, cells) for cells in (_windows(size, stripe) for stripe in stripes)]


def _all_places(layer: Any, size: Size) -> List[Places]:
    cells = _cells(size).view(1, -1) - 1
    return [Places(cells, cells)]


def _reduced_places(layer: Any, size: Size) -> List[Places]:
    side = layer.sr_ratio
    keys = -(-size[0] // side) * -(-size[1] // side)
    return [Places(_cells(size).view(1, -1) - 1, torch.arange(keys).view(1, -1), side)]


PLACES: Dict[type, Callable[[Any, Size], List[Places]]] = {
    WindowAttention: _window_places,
    GGTokenAttention: _glance_places,
    StripeAttention: _stripe_places,
    GlobalAttention: _all_places,
    ScalableAttention: _reduced_places,
}


# ---------------------------------------------------------------------- maps
def group_map(weights: Tensor, size: Size) -> Tensor:
    """Tell for each token which group token takes most from it (GPViT, Figure 6).

    Args:
        weights: Attention (heads, M, N) of M group tokens to all tokens.
        size: ``(H, W)``, N = H * W.

    Returns:
        Int64 map (H, W) of numbers 0..M-1.
    """
    return weights.mean(0).argmax(0).view(size)


def token_map(call: Call, places: Places, size: Size, token: int) -> Tuple[Tensor, Tensor, float]:
    """Put the weights of one token on the map of its keys.

    Args:
        call: A call of the layer, for one image.
        places: Where its tokens lie.
        size: ``(H, W)`` of the map of the layer.
        token: Cell of the token, row by row.

    Returns:
        Weights (h, w), the mean of all heads, scaled to sum 1; bool map (h, w) of the keys;
        share of the attention to keys that lie nowhere.
    """
    row, index = (places.queries == token).nonzero()[0].tolist()
    weights = call.weights(row, index).mean(0).cpu()
    keys = F.pad(places.keys[row], (0, len(weights) - places.keys.shape[1]), value=-1)
    real = keys >= 0
    height, width = (-(-side // places.merged) for side in size)
    values = torch.zeros(height * width)
    values[keys[real]] = weights[real]
    seen = torch.zeros(height * width, dtype=torch.bool)
    seen[keys[real]] = True
    share = float(values.sum())
    return (values / share).view(height, width), seen.view(height, width), max(0.0, 1 - share)


def attention_maps(
    backbone: nn.Module,
    image: Tensor,
    pixel: Tuple[float, float],
    names: Optional[Sequence[str]] = None,
) -> List[AttentionMap]:
    """Run a backbone once and tell where a pixel looks.

    Args:
        backbone: A backbone of this package.
        image: Image (1, C, H, W), normalised.
        pixel: ``(x, y)`` in pixels of this image.
        names: Blocks wanted, see :func:`find_blocks`.

    Returns:
        One map a block, in the order in which the blocks run.

    Raises:
        UserError: If the backbone has no such block, or the pixel lies outside the image.
    """
    blocks = find_blocks(backbone, names)
    height, width = image.shape[2:]
    x, y = pixel
    if len(image) != 1 or not (0 <= x < width and 0 <= y < height):
        raise UserError(f'pixel {x:g},{y:g} lies outside the one image of {width}x{height} pixels')
    maps = []
    for name, (size, calls) in run(backbone, blocks, image).items():
        layer = attention_of(blocks[name])
        cell = (cell_side(height, size[0]), cell_side(width, size[1]))
        if isinstance(layer, Grouping):
            maps.append(_groups(name, size, calls[0], cell))
            continue
        token = int(y // cell[0]) * size[1] + int(x // cell[1])
        find = next(find for kind, find in PLACES.items() if isinstance(layer, kind))
        places = find(layer, size)
        parts = [token_map(call, place, size, token) for call, place in zip(calls, places)]
        merged = places[0].merged
        maps.append(
            AttentionMap(
                name,
                kind_of(layer),
                torch.stack([part[0] for part in parts]).mean(0),
                torch.stack([part[1] for part in parts]).any(0),
                (cell[0] * merged, cell[1] * merged),
                sum(part[2] for part in parts) / len(parts),
            )
        )
    return maps


def group_maps(
    backbone: nn.Module,
    image: Tensor,
    names: Optional[Sequence[str]] = None,
    chosen: Sequence[int] = (),
) -> List[AttentionMap]:
    """Run a backbone once and tell to which group each token gives most (GPViT, Figure 6).

    Args:
        backbone: A GPViT of this package.
        image: Image (1, C, H, W), normalised.
        names: Blocks wanted, see :func:`find_groups`.
        chosen: Numbers of the groups wanted; ``seen`` of the maps tells where they are.
            Default: all.

    Returns:
        One map a block, in the order in which the blocks run.

    Raises:
        UserError: If the backbone has no such block or group.
    """
    blocks = find_groups(backbone, names, chosen)
    height, width = image.shape[2:]
    maps = []
    for name, (size, calls) in run(backbone, blocks, image).items():
        cell = (cell_side(height, size[0]), cell_side(width, size[1]))
        maps.append(_groups(name, size, calls[0], cell, chosen))
    return maps


def _groups(
    name: str, size: Size, call: Call, cell: Tuple[float, float], chosen: Sequence[int] = ()
) -> AttentionMap:
    labels = group_map(call.weights(0), size).cpu()
    seen = torch.ones(size, dtype=torch.bool)
    if chosen:
        seen = torch.isin(labels, torch.tensor(chosen))
    return AttentionMap(name, 'groups', labels, seen, cell, groups=call.q.shape[2])
