"""Parameters and multiply-accumulates of whole models, counted without running them."""

from typing import Any, Callable, Dict, Tuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..errors import UserError

# Into what torch takes attention apart on the meta device; nothing else here uses it.
ATTENTION_PRODUCTS = (torch.ops.aten.bmm, torch.ops.aten.baddbmm)
# What the papers count at, by scope.
INPUT_SIZES = {'mmdet': (800, 1280), 'mmseg': (512, 2048), 'mmpretrain': (224, 224)}


def build_on_meta(cfg: Config) -> nn.Module:
    """Build the model of a config without memory for its weights, and without loading any."""
    scope = cfg.get('default_scope', 'mmengine')
    init_default_scope(scope)
    with torch.device('meta'):
        return MODELS.build(cfg.model).eval()


def count_parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())


def count_call(function: Callable[..., Any], *args: Any) -> Tuple[Any, float, float]:
    """Call a module, or a function, with tensors on the meta device.

    Returns:
        What it returns, the GMACs as :func:`count_macs` counts them, and those without the two
        matrix products of attention.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        out = function(*args)
    counts = counter.get_flop_counts().get('Global', {})
    products = sum(counts.get(operation, 0) for operation in ATTENTION_PRODUCTS)
    total = sum(counts.values())
    return out, total / 2e9, (total - products) / 2e9


def count_macs(
    model: Any,
    size: Tuple[int, int],
    num_boxes: int = 1000,
    num_masks: int = 100,
    attention: bool = True,
) -> Dict[str, float]:
    """Count multiply-accumulates of one image, part by part.

    Counted are convolutions, linear layers and the matrix products of attention, as torch's
    ``FlopCounterMode`` sees them, halved. Norms, activations, softmax, pooling and
    interpolation are not, nor are auxiliary heads, which only train.

    Args:
        model: Model on the meta device, from :func:`build_on_meta`, its parameters as they are
            (torch runs layers without gradients by other operations).
        size: ``(height, width)`` of the image.
        num_boxes: Boxes that every box head of a two-stage detector sees.
        num_masks: Boxes that its mask head sees.
        attention: Count the two matrix products of attention; some papers leave them out.

    Returns:
        GMACs by part, and their sum under 'total'.

    Raises:
        UserError: If the model has a head that this cannot run by itself.
    """
    return count_macs_both_ways(model, size, num_boxes, num_masks)[0 if attention else 1]


def count_macs_both_ways(
    model: Any, size: Tuple[int, int], num_boxes: int = 1000, num_masks: int = 100
) -> Tuple[Dict[str, float], Dict[str, float]]:
    """As :func:`count_macs`, with the products of attention and without them, in one pass."""
    parts: Dict[str, float] = {}
    without: Dict[str, float] = {}

    def run(name: str, function: Callable[..., Any], *args: Any) -> Any:
        out, macs, macs_without = count_call(function, *args)
        parts[name] = parts.get(name, 0.0) + macs
        without[name] = without.get(name, 0.0) + macs_without
        return out

    image = torch.zeros(1, 3, *size, device='meta')
    feats = run('backbone', model.backbone, image)
    if getattr(model, 'neck', None) is not None:
        feats = run('neck', model.neck, feats)
    if hasattr(model, 'roi_head'):
        run('rpn_head', model.rpn_head, feats)
        for name, boxes in (('bbox', num_boxes), ('mask', num_masks)):
            extractor = _first(getattr(model.roi_head, f'{name}_roi_extractor'))
            heads = getattr(model.roi_head, f'{name}_head')
            side = extractor.roi_layers[0].output_size[0]
            rois = torch.zeros(boxes, extractor.out_channels, side, side, device='meta')
            for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
                run(f'{name}_head', head, rois)
    elif hasattr(model, 'encoder') and hasattr(model, 'decoder'):
        name = type(model).__name__
        raise UserError(f'{name}: how to count its encoder and decoder is not known')
    elif hasattr(model, 'bbox_head'):
        run('bbox_head', model.bbox_head, feats)
    elif hasattr(model, 'decode_head'):
        run('decode_head', model.decode_head, feats)
    elif hasattr(model, 'head'):
        run('head', model.head, feats)
    else:
        raise UserError(f'{type(model).__name__}: how to count its head is not known')
    for counted in (parts, without):
        counted['total'] = sum(counted.values())
    return parts, without


def _first(module: Any) -> Any:
    return module[0] if isinstance(module, nn.ModuleList) else module
