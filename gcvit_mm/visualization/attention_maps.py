"""Where a pixel looks: the attention weights of its token, put back on the map.

The blocks run as they always do, on torch's fused attention, which keeps no weights. What it was
called with is kept instead, and the softmax of the one row wanted is taken again.
"""

import math
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..backbones.base import BaseBackbone
from ..backbones.gg_deit import GGTokenAttention
from ..backbones.gpvit import StripeAttention
from ..backbones.group_propagation import Grouping
from ..backbones.scalablevit import ScalableAttention
from ..errors import UserError
from ..layers import GlobalAttention, WindowAttention, pad_to_windows, partition

Size = Tuple[int, int]


class Call(NamedTuple):
    """What the fused attention was called with."""

    q: Tensor  # (B, heads, N, d)
    k: Tensor  # (B, heads, M, d)
    bias: Optional[Tensor]  # broadcasts to (B, heads, N, M)
    scale: Optional[float]

    def weights(self, row: int, token: Optional[int] = None) -> Tensor:
        """Take the softmax again, in float32.

        Args:
            row: Which row of the batch: an image, or a window.
            token: Which query; all if not given.

        Returns:
            Weights (heads, M) of one query, (heads, N, M) of all.
        """
        queries = slice(None) if token is None else slice(token, token + 1)
        q, k = self.q[row, :, queries].float(), self.k[row].float()
        scale = q.shape[-1] ** -0.5 if self.scale is None else self.scale
        logits = q @ k.transpose(1, 2) * scale
        if self.bias is not None:
            bias = self.bias.expand(len(self.q), -1, self.q.shape[2], -1)
            logits = logits + bias[row, :, queries].float()
        weights = logits.softmax(-1)
        return weights if token is None else weights[:, 0]


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
        seen: Bool map (h, w), the cells that are keys of the token.
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


def kind_of(layer: Any) -> str:
    """Say in words what an attention layer attends to; '' for a layer that is not known."""
    if isinstance(layer, WindowAttention):
        if layer.dilated:
            return 'dilated partition'
        if layer.offset:
            return 'shifted window'
        return 'local window' if layer.own_query else 'global query'
    words = {
        GGTokenAttention: 'dilated partition and class token',
        StripeAttention: 'stripes',
        GlobalAttention: 'all tokens',
        ScalableAttention: 'reduced map',
        Grouping: 'groups',
    }
    return words.get(type(layer), '')


# ---------------------------------------------------------------------- blocks
def attention_of(block: nn.Module) -> Any:
    """The attention of a block that is drawn: the grouping of a GP block, or ``attn``."""
    return getattr(block, 'group_attn', getattr(block, 'attn', None))


def find_blocks(backbone: nn.Module, names: Optional[Sequence[str]] = None) -> Dict[str, Any]:
    """Find the blocks of a backbone whose attention can be drawn.

    Args:
        backbone: A backbone of this package.
        names: Those wanted. Default: the last one of each kind in every stage, and all with
            group tokens; a backbone without stages counts as one.

    Returns:
        Blocks by name, in the order in which they run.

    Raises:
        UserError: If the backbone is not of this package, or has no such block.
    """
    if not isinstance(backbone, BaseBackbone):
        raise UserError(
            f'{type(backbone).__name__} is no backbone of gcvit_mm: attention can be drawn for '
            'those only, e.g. with configs/mask_gcvit_t_3x.py'
        )
    modules = backbone.named_modules()
    blocks = {n: m for n, m in modules if kind_of(attention_of(m)) and '.propagation' not in n}
    if names is None:
        last = {}
        for name, block in blocks.items():
            kind = kind_of(attention_of(block))
            stage = name if kind == 'groups' else name.rpartition('.')[0]
            last[stage, kind] = name
        return {name: block for name, block in blocks.items() if name in last.values()}
    for name in names:
        if name not in blocks:
            raise UserError(
                f"the backbone has no layer '{name}' that can be drawn: "
                f'give one or more of {", ".join(blocks)}'
            )
    return {name: block for name, block in blocks.items() if name in names}


class _Record(TorchFunctionMode):
    """Keeps the arguments of torch's fused attention while a block runs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Optional[List[Call]] = None  # of the block that runs

    def __torch_function__(
        self, func: Any, types: Any, args: Tuple = (), kwargs: Optional[Dict] = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and self.calls is not None:
            bias = args[3] if len(args) > 3 else kwargs.get('attn_mask')
            self.calls.append(Call(args[0], args[1], bias, kwargs.get('scale')))
        return func(*args, **kwargs)


@contextmanager
def recording(blocks: Dict[str, Any]) -> Iterator[Dict[str, Tuple[Size, List[Call]]]]:
    """Keep what the blocks attend with, and the size of their map, while this is entered.

    Args:
        blocks: Blocks by name. They get a map (B, H, W, C), or tokens and ``(H, W)``.

    Yields:
        A dict that fills up: by name, the size of the map and the calls, in their order.
    """
    kept: Dict[str, Tuple[Size, List[Call]]] = {}
    record = _Record()

    def enter(name: str) -> Callable[..., None]:
        def hook(block: nn.Module, args: Tuple) -> None:
            size = args[0].shape[1:3] if args[0].ndim == 4 else args[1]
            record.calls = []
            kept[name] = ((size[0], size[1]), record.calls)

        return hook

    def leave(*_: Any) -> None:
        record.calls = None

    with ExitStack() as stack:
        for name, block in blocks.items():
            stack.callback(block.register_forward_pre_hook(enter(name)).remove)
            stack.callback(block.register_forward_hook(leave).remove)
        stack.enter_context(record)
        yield kept


# ---------------------------------------------------------------------- maps
def cell_side(pixels: int, cells: int) -> int:
    """Side of a cell in pixels: the power of two that cuts ``pixels`` into ``cells``."""
    return 2 ** math.ceil(math.log2(pixels / cells))


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
    mode = backbone.training
    with torch.no_grad(), recording(blocks) as kept:
        backbone.eval()(image)
    backbone.train(mode)
    maps = []
    for name, (size, calls) in kept.items():
        layer = attention_of(blocks[name])
        cell = (cell_side(height, size[0]), cell_side(width, size[1]))
        if isinstance(layer, Grouping):
            labels = group_map(calls[0].weights(0), size).cpu()
            seen = torch.ones(size, dtype=torch.bool)
            groups = calls[0].q.shape[2]
            maps.append(AttentionMap(name, kind_of(layer), labels, seen, cell, groups=groups))
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
