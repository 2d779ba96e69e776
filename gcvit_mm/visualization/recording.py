"""Attention blocks: finding them, and what their attention was called with.

The blocks run as they always do, on torch's fused attention, which keeps no weights. What it was
called with is kept instead, and the softmax of the rows wanted is taken again.
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
from ..layers import GlobalAttention, WindowAttention

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


# ---------------------------------------------------------------------- finding
def attention_of(block: nn.Module) -> Any:
    """The attention of a block that is drawn: the grouping of a GP block, or ``attn``."""
    return getattr(block, 'group_attn', getattr(block, 'attn', None))


def all_blocks(backbone: nn.Module) -> Dict[str, Any]:
    """All blocks of a backbone whose attention can be drawn, by name."""
    modules = backbone.named_modules()
    return {n: m for n, m in modules if kind_of(attention_of(m)) and '.propagation' not in n}


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
    blocks = all_blocks(backbone)
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


def find_groups(
    backbone: nn.Module, names: Optional[Sequence[str]] = None, chosen: Sequence[int] = ()
) -> Dict[str, Any]:
    """Find the blocks of a backbone with group tokens.

    Args:
        backbone: A GPViT of this package.
        names: Those wanted; default: all.
        chosen: Numbers of groups that each of them must have.

    Returns:
        Blocks by name, in the order in which they run.

    Raises:
        UserError: If the backbone has no group tokens, no such block, or no such group.
    """
    blocks = {n: b for n, b in find_blocks(backbone).items() if hasattr(b, 'group_token')}
    if not blocks:
        raise UserError(
            f'{type(backbone).__name__} has no group tokens: groups can be drawn for GPViT, e.g. '
            'with configs/segformer_gpvit_l1_160k.py'
        )
    for name in names or ():
        if name not in blocks:
            raise UserError(
                f"the backbone has no layer '{name}' with group tokens: "
                f'give one or more of {", ".join(blocks)}'
            )
    blocks = {name: block for name, block in blocks.items() if name in (names or blocks)}
    for name, block in blocks.items():
        count = block.group_token.shape[1]
        for number in chosen:
            if not 0 <= number < count:
                raise UserError(
                    f'{name} has no group {number}, only 0..{count - 1}: choose others, or name '
                    'other layers'
                )
    return blocks


# ---------------------------------------------------------------------- recording
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


def run(
    backbone: nn.Module, blocks: Dict[str, Any], image: Tensor
) -> Dict[str, Tuple[Size, List[Call]]]:
    """Run a backbone once in eval mode; return what :func:`recording` keeps."""
    mode = backbone.training
    with torch.no_grad(), recording(blocks) as kept:
        backbone.eval()(image)
    backbone.train(mode)
    return kept


def cell_side(pixels: int, cells: int) -> int:
    """Side of a cell in pixels: the power of two that cuts ``pixels`` into ``cells``."""
    return 2 ** math.ceil(math.log2(pixels / cells))
