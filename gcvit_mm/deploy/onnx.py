"""Exporting models to ONNX, and checking what was exported against the model.

Sizes stay symbols: batch, height and width of the exported graph are free. Torch's older exporter
(tracing) is used: it is in all releases of torch that this package runs on, and takes seconds
where the newer one takes minutes. Nothing is taken on trust: :func:`verify_onnx` compares the file
with the model at sizes that were not traced.
"""

import warnings
from typing import Dict, List, Optional, Sequence, Tuple

import torch
from mmengine.config import Config
from torch import Tensor, nn

from ..compat import older_exporter
from ..errors import UserError
from .counterparts import detector_to_export
from .engines import first_line, open_engine
from .metadata import normalising

Size = Tuple[int, int]
TASKS = {'mmdet': 'detector', 'mmseg': 'segmentor', 'mmpretrain': 'classifier'}  # by scope
TOLERANCE = 1e-4  # of the largest value of an output, or of 1


class AdaptivePool(nn.Module):
    """Adaptive average pooling as two products, which exports at any size of the map.

    Args:
        size: Sides ``(h, w)`` of the result.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) -> (B, C, h, w)."""
        rows = self._means(x.shape[2], self.size[0], x)
        cols = self._means(x.shape[3], self.size[1], x)
        return torch.matmul(torch.matmul(rows, x), cols.t())

    @staticmethod
    def _means(side: int, bins: int, like: Tensor) -> Tensor:
        """Matrix (bins, side): bin i is the mean of floor(i * side / bins) to
        ceil((i + 1) * side / bins)."""
        positions = torch.arange(side, device=like.device)
        i = torch.arange(bins, device=like.device)[:, None]
        start, end = i * side // bins, ((i + 1) * side + bins - 1) // bins
        inside = (positions >= start) & (positions < end)
        return inside.to(like.dtype) / (end - start).to(like.dtype)


class Normalise(nn.Module):
    """What a data_preprocessor does to pictures, but for padding.

    Args:
        order: 'RGB' or 'BGR', what the model takes.
        mean: Of each channel.
        std: Of each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, order: str, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.order = order
        self.register_buffer('mean', torch.tensor(mean)[:, None, None])
        self.register_buffer('std', torch.tensor(std)[:, None, None])

    def forward(self, image: Tensor) -> Tensor:
        """Pictures (B, C, H, W) of bytes, RGB -> images."""
        image = image if self.order == 'RGB' else image.flip(1)
        return (image.to(torch.float32) - self.mean) / self.std


class ExportedModel(nn.Module):
    """The part of a model that is exported: images to a tuple of tensors.

    Args:
        model: A backbone of this package, a :class:`gcvit_mm.deploy.detectors.Detector`, a
            segmentor of mmseg or a classifier of mmpretrain. Its adaptive poolings are replaced.
        kind: 'backbone': the maps. 'detector': boxes and more, see there. 'segmentor': logits
            (B, classes, H', W') at the stride of the decode head. 'classifier': logits
            (B, classes).
        normalise: Takes bytes, and makes images of them.
    """

    def __init__(self, model: nn.Module, kind: str, normalise: Optional[Normalise] = None) -> None:
        super().__init__()
        self.model = replace_pooling(model)
        self.kind = kind
        self.normalise = normalise
        self.eval()

    def forward(self, image: Tensor) -> Tuple[Tensor, ...]:
        """Images (B, C, H, W), normalised as the config says, or bytes -> the outputs."""
        if self.normalise is not None:
            image = self.normalise(image)
        if self.kind == 'backbone':
            return tuple(self.model(image))
        if self.kind == 'detector':
            return self.model(image)
        return (self.model(image, mode='tensor'),)

    def example(self, batch: int, channels: int, height: int, width: int) -> Tensor:
        """A random input."""
        if self.normalise is not None:
            return torch.randint(0, 256, (batch, channels, height, width), dtype=torch.uint8)
        return torch.randn(batch, channels, height, width)

    def outputs(self, count: int) -> Dict[str, Dict[int, str]]:
        """Names of the outputs, and of their axes of any length."""
        if self.kind == 'detector':
            return {name: {0: 'found'} for name in self.model.outputs}  # type: ignore[union-attr]
        if self.kind == 'classifier':
            return {'logits': {0: 'batch'}}
        names = ['logits'] if self.kind == 'segmentor' else [f'map{i}' for i in range(count)]
        return {name: {0: 'batch', 2: f'height{i}', 3: f'width{i}'} for i, name in enumerate(names)}


def replace_pooling(model: nn.Module) -> nn.Module:
    """Replace the adaptive average poolings with several bins by ones that export."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d):
                size = child.output_size
                h, w = size if isinstance(size, (tuple, list)) else (size, size)
                if h and w and (h, w) != (1, 1):  # None keeps a side, and exports
                    setattr(module, name, AdaptivePool((h, w)))
    return model


def part_to_export(
    cfg: Config, model: nn.Module, backbone_only: bool = False, uint8: bool = False
) -> ExportedModel:
    """Choose what is exported of a model.

    Args:
        cfg: Config of the model.
        model: The whole model, its weights loaded.
        backbone_only: Take the backbone by itself.
        uint8: Take pictures as bytes, and normalise them in the file.

    Raises:
        UserError: If the model has no counterpart for the export.
    """
    normalise = Normalise(**normalising(cfg)) if uint8 else None
    if backbone_only:
        return ExportedModel(model.backbone, 'backbone', normalise)  # type: ignore[arg-type]
    kind = TASKS.get(cfg.get('default_scope'))
    if kind is None:
        raise UserError(
            f'a {type(model).__name__} is no detector, segmentor or classifier: export its '
            'backbone with --backbone'
        )
    if kind == 'detector':
        return ExportedModel(detector_to_export(model), kind, normalise)
    return ExportedModel(model, kind, normalise)


def export_onnx(
    model: ExportedModel,
    path: str,
    size: Size,
    in_channels: int = 3,
    fixed: bool = False,
    opset: int = 17,
) -> List[str]:
    """Write a model as ONNX.

    Args:
        model: The model, on the CPU.
        path: File to write.
        size: Image ``(H, W)`` to trace with.
        in_channels: Channels of the image.
        fixed: Tie the graph to one image of this size. Otherwise batch, height and width are free.
        opset: Version of ONNX's operators, 16 at least for deformable attention.

    Returns:
        Names of the outputs; the input is called 'image'.

    Raises:
        UserError: If the onnx package is missing, or an operator has no counterpart.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise UserError('the export needs the onnx package: pip install onnx') from error
    least = model.model.opset if model.kind == 'detector' else 0
    if opset < least:  # type: ignore[operator]
        raise UserError(
            f'--opset {opset} is too old: what this detector needs came with {least}: leave it out'
        )
    # Two images: with one, torch would take the batch for a constant here and there.
    image = model.example(1 if fixed else 2, in_channels, *size)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the tracer: what it may have missed is verified
        outputs = model.outputs(len(model(image)))
        names = list(outputs)
        axes = {'image': {0: 'batch', 2: 'height', 3: 'width'}, **outputs}
        if fixed:
            # how many boxes there are is never known
            axes = outputs if model.kind == 'detector' else {}
        options: dict = dict(input_names=['image'], output_names=names, dynamic_axes=axes)
        options.update(older_exporter())
        try:
            torch.onnx.export(model, (image,), path, opset_version=opset, **options)
        except torch.onnx.errors.OnnxExporterError as error:
            line = str(error).splitlines()[0]
            raise UserError(f'{path}: torch cannot export this model: {line}') from error
    return names


def verify_onnx(
    model: ExportedModel,
    path: str,
    sizes: Sequence[Tuple[int, int, int]],
    in_channels: int = 3,
    engine: str = 'onnxruntime',
) -> float:
    """Compare an exported file with its model on random images.

    Args:
        model: The model that was exported.
        path: The file.
        sizes: Batches ``(B, H, W)`` to compare at.
        in_channels: Channels of the image.
        engine: What runs the file.

    Returns:
        The largest difference, in units of the largest value of its output (or of 1).

    Raises:
        UserError: If the engine is missing, cannot run the file, or finds other values.
    """
    opened = open_engine(path, engine, torch.get_num_threads())
    worst = 0.0
    for batch, height, width in sizes:
        image = model.example(batch, in_channels, height, width)
        where = f'{path} at {batch}x{in_channels}x{height}x{width}'
        with torch.no_grad():
            wanted = model(image)
        try:
            found = opened.run(image.numpy())
        except Exception as error:
            raise UserError(f'{where}: {opened.name} cannot run it: {first_line(error)}') from error
        for (name, a), b in zip(found.items(), wanted):
            if a.shape != tuple(b.shape):
                raise UserError(f'{where}: {name} has shape {a.shape}, torch {tuple(b.shape)}')
            scale = max(1.0, b.abs().max().item())
            difference = (torch.from_numpy(a) - b).abs().max().item() / scale
            if not difference <= TOLERANCE:
                raise UserError(
                    f'{where}: {name} differs from torch by {difference:.1e} of its largest value: '
                    'do not use this file'
                )
            worst = max(worst, difference)
    return worst
