"""Parameters and multiply-accumulates of whole models, counted without running them."""

from typing import Any, Callable, Dict, Optional, Sequence, Tuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from ..errors import UserError

# Into what torch takes attention apart on the meta device, and what deformable attention reads its
# values with; nothing else here uses them.
ATTENTION_PRODUCTS = (
    torch.ops.aten.bmm,
    torch.ops.aten.baddbmm,
    torch.ops.aten.grid_sampler_2d,
)
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


def count_call(
    function: Callable[..., Any], *args: Any, **options: Any
) -> Tuple[Any, float, float]:
    """Call a module, or a function, with tensors on the meta device.

    Returns:
        What it returns, the GMACs as :func:`count_macs` counts them, and those without the
        products of attention.
    """
    mapping = {torch.ops.aten.grid_sampler_2d: products_of_samples}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        out = function(*args, **options)
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

    Counted are convolutions, linear layers and the products of attention, as torch's
    ``FlopCounterMode`` sees them, halved: queries with keys, weights with values. Deformable
    attention has one product for each sampled value, that with its weight; sampling itself is
    not counted, as no interpolation is. Nor are norms, activations, softmax, pooling, and
    auxiliary heads, which only train. A DINO is counted as mmdet tests it: its head looks at what
    every layer of the decoder gives.

    Args:
        model: Model on the meta device, from :func:`build_on_meta`, its parameters as they are
            (torch runs layers without gradients by other operations).
        size: ``(height, width)`` of the image.
        num_boxes: Boxes that every box head of a two-stage detector sees.
        num_masks: Boxes that its mask head sees.
        attention: Count the products of attention; some papers leave them out.

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

    def run(name: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        out, macs, macs_without = count_call(function, *args, **options)
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
    elif type(model).__name__ == 'DINO':
        _run_dino(model, feats, size, run)
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


class _NumbersBesideMeta(TorchFunctionMode):
    """Lets tensors of the meta device be computed with others that hold numbers.

    mmdet's transformers read sizes of maps from a tensor and divide by it; one on the meta device
    cannot be read.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Optional[dict] = None
    ) -> Any:
        if any(isinstance(arg, Tensor) and arg.is_meta for arg in args):
            # those without dimensions fit as they are, and may be sizes
            args = [a.to('meta') if isinstance(a, Tensor) and a.dim() else a for a in args]
        return func(*args, **(kwargs or {}))


def _run_dino(
    model: Any, feats: Sequence[Tensor], size: Tuple[int, int], run: Callable[..., Any]
) -> None:
    """Run what stands behind the neck of mmdet's DINO, for an image without padding."""
    from mmdet.structures import DetDataSample

    shapes = torch.tensor([feat.shape[2:] for feat in feats])
    if shapes.prod(1).sum() < model.num_queries:
        raise UserError(
            f'DINO: an image of {size[0]}x{size[1]} has fewer tokens than {model.num_queries} '
            'queries, and mmdet cannot run it: give a larger one'
        )
    sample = DetDataSample(metainfo=dict(batch_input_shape=size, img_shape=size))
    with _NumbersBesideMeta():
        encoder_inputs, decoder_inputs = model.pre_transformer(feats, [sample])
        encoder_inputs['spatial_shapes'] = decoder_inputs['spatial_shapes'] = shapes
        memory = run('encoder', model.forward_encoder, **encoder_inputs)
        queries, _ = run('query_selection', model.pre_decoder, **memory)
        states = run('decoder', model.forward_decoder, **decoder_inputs, **queries)
        run('bbox_head', model.bbox_head, **states)


def products_of_samples(values: Any, grid: Any, *args: Any, **kwargs: Any) -> int:
    """Products and sums of values (N, C, H, W) sampled at points (N, Q, P, 2), one a channel."""
    # newer releases of torch hand over shapes
    values, grid = (getattr(argument, 'shape', argument) for argument in (values, grid))
    return 2 * values[1] * grid[0] * grid[1] * grid[2]


def _first(module: Any) -> Any:
    return module[0] if isinstance(module, nn.ModuleList) else module
