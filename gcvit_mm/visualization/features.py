"""Feature maps: what layers give, the mean of their channels (ScalableViT, Figures 1 and 7)."""

import difflib
from contextlib import ExitStack
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..errors import UserError
from .recording import cell_side

PARTS = ('backbone', 'neck')  # what runs
# Images by which axes are told apart: those of height and width change, that of channels does not.
PROBES = ((128, 256), (192, 128))


class FeatureMap(NamedTuple):
    """What a layer gives.

    Attributes:
        name: Name of the layer in the model.
        values: Mean of the channels (h, w), float32.
        cell: Height and width of a cell in pixels of the image.
    """

    name: str
    values: Tensor
    cell: Tuple[float, float]


def find_layers(model: nn.Module, names: Sequence[str]) -> Dict[str, nn.Module]:
    """Find layers of a backbone, or of the backbone and the neck of a model.

    Args:
        model: Detector, segmentor or classifier, or a backbone.
        names: As ``model.named_modules()`` has them, e.g. ``backbone.stages.2.blocks.3``.

    Raises:
        UserError: If there is no such layer.
    """
    modules = dict(model.named_modules())
    where = 'the backbone has'
    if hasattr(model, 'extract_feat'):
        modules = {n: m for n, m in modules.items() if n.partition('.')[0] in PARTS}
        where = 'backbone and neck have'
    for name in names:
        if name not in modules:
            close = difflib.get_close_matches(name, modules, n=1, cutoff=0.0)
            hint = f'did you mean {close[0]}?' if close else 'the model has neither'
            raise UserError(f"{where} no layer '{name}': {hint}")
    return {name: modules[name] for name in names}


def feature_maps(model: Any, image: Tensor, names: Sequence[str]) -> List[FeatureMap]:
    """Run a backbone, or that of a model and its neck, once; give the mean of channels of layers.

    The channels are summed up by their mean: ScalableViT does not say how it does.

    Args:
        model: Detector, segmentor or classifier, with ``extract_feat``, or a backbone.
        image: Image (1, C, H, W), normalised.
        names: Layers, see :func:`find_layers`.

    Returns:
        One map a layer, in the order of the names.

    Raises:
        UserError: If there is no such layer, or it gives no map.
    """
    layers = find_layers(model, names)
    height, width = image.shape[2:]
    mode = model.training
    model.eval()
    probes = [_outputs(model, layers, image.new_zeros(1, image.shape[1], *p)) for p in PROBES]
    outputs = _outputs(model, layers, image)
    model.train(mode)
    maps = []
    for name, out in outputs.items():
        values = as_map(out, [found[name] for found in probes], (height, width), name)
        cell = cell_side(height, values.shape[1]), cell_side(width, values.shape[2])
        maps.append(FeatureMap(name, values.float().mean(0).cpu(), cell))
    return maps


def as_map(out: Tensor, probes: Sequence[Tensor], size: Tuple[int, int], name: str) -> Tensor:
    """Bring what a layer gives into the order (C, h, w).

    Args:
        out: Map (1, C, h, w) or (1, h, w, C), or tokens (1, N, C), those of no place (of classes)
            before those of the map.
        probes: What the layer gives for images of the sizes :data:`PROBES`.
        size: ``(height, width)`` of the image.
        name: Name of the layer, for errors.

    Raises:
        UserError: If it is none of these.
    """
    first, second = (tuple(probe.shape) for probe in probes)
    axes = [i for i, (a, b) in enumerate(zip(first, second)) if a != b]
    if out.ndim == 4 and axes in ([1, 2], [2, 3]) and 2 * first[axes[0]] == first[axes[1]]:
        return out[0] if axes == [2, 3] else out[0].permute(2, 0, 1)
    if out.ndim == 3 and axes == [1] and first[1] > second[1]:
        pixels = [height * width for height, width in PROBES]
        stride = round(((pixels[0] - pixels[1]) / (first[1] - second[1])) ** 0.5)
        others = first[1] - pixels[0] // stride**2
        h, w = (-(-side // stride) for side in size)
        if others >= 0 and out.shape[1] == others + h * w:
            return out[0, others:].T.reshape(-1, h, w)
    raise UserError(
        f'{name} gives no map, but a tensor {tuple(out.shape)}: name another layer, e.g. a block'
    )


def _outputs(model: Any, layers: Dict[str, nn.Module], image: Tensor) -> Dict[str, Tensor]:
    """What the layers give for an image, by name."""
    found: Dict[str, Any] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, args, out: found.update({name: out})

    with torch.no_grad(), ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_hook(keep(name)).remove)
        getattr(model, 'extract_feat', model)(image)
    for name in layers:
        if name not in found:
            raise UserError(f'{name} does not run by itself: name another layer, e.g. a block')
        if not isinstance(found[name], Tensor):
            raise UserError(f'{name} gives several maps: name a layer inside it, e.g. a block')
    return {name: found[name] for name in layers}
