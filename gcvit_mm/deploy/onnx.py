"""Exporting models to ONNX, and checking what was exported against the model.

Sizes stay symbols: batch, height and width of the exported graph are free. Torch's older exporter
(tracing) is used: it is in all releases of torch that this package runs on, and takes seconds
where the newer one takes minutes. Nothing is taken on trust: :func:`verify_onnx` compares the file
with the model at sizes that were not traced.
"""

import warnings
from typing import Any, List, Sequence, Tuple

import torch
from mmengine.config import Config
from torch import Tensor, nn

from ..compat import older_exporter
from ..errors import UserError

Size = Tuple[int, int]
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


class ExportedModel(nn.Module):
    """The part of a model that is exported: images to a tuple of tensors.

    Args:
        model: A backbone of this package, a segmentor of mmseg or a classifier of mmpretrain.
            Its adaptive poolings are replaced.
        kind: 'backbone': the maps. 'segmentor': logits (B, classes, H', W') at the stride of the
            decode head. 'classifier': logits (B, classes).
    """

    def __init__(self, model: nn.Module, kind: str) -> None:
        super().__init__()
        self.model = replace_pooling(model)
        self.kind = kind
        self.eval()

    def forward(self, image: Tensor) -> Tuple[Tensor, ...]:
        """Images (B, C, H, W), normalised as the config says -> the outputs."""
        if self.kind == 'backbone':
            return tuple(self.model(image))
        return (self.model(image, mode='tensor'),)


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


def part_to_export(cfg: Config, model: nn.Module, backbone_only: bool = False) -> ExportedModel:
    """Choose what is exported of a model.

    Args:
        cfg: Config of the model.
        model: The whole model, its weights loaded.
        backbone_only: Take the backbone by itself; of a detector nothing else can be exported.

    Raises:
        UserError: If the model is a detector and ``backbone_only`` is not set.
    """
    if backbone_only:
        return ExportedModel(model.backbone, 'backbone')  # type: ignore[arg-type]
    kind = {'mmseg': 'segmentor', 'mmpretrain': 'classifier'}.get(cfg.get('default_scope'))
    if kind is None:
        raise UserError(
            f'a {type(model).__name__} cannot be exported whole (how many boxes it finds depends '
            'on the image): export its backbone with --backbone'
        )
    return ExportedModel(model, kind)


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
    # Two images: with one, torch would take the batch for a constant here and there.
    image = torch.randn(1 if fixed else 2, in_channels, *size)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the tracer: what it may have missed is verified
        count = len(model(image))
        names = [f'map{i}' for i in range(count)] if model.kind == 'backbone' else ['logits']
        axes = {} if fixed else {'image': {0: 'batch', 2: 'height', 3: 'width'}}
        for i, name in enumerate(names):
            if not fixed:
                tail = {2: f'height{i}', 3: f'width{i}'} if model.kind != 'classifier' else {}
                axes[name] = {0: 'batch', **tail}
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
) -> float:
    """Compare an exported file with its model on random images.

    Args:
        model: The model that was exported.
        path: The file.
        sizes: Batches ``(B, H, W)`` to compare at.
        in_channels: Channels of the image.

    Returns:
        The largest difference, in units of the largest value of its output (or of 1).

    Raises:
        UserError: If onnxruntime is missing, cannot run the file, or finds other values.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError('the check needs onnxruntime: pip install onnxruntime') from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    worst = 0.0
    try:
        session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    except Exception as error:  # onnxruntime's errors have no common class of their own
        raise UserError(f'{path}: onnxruntime cannot read it: {_first_line(error)}') from error
    for batch, height, width in sizes:
        image = torch.randn(batch, in_channels, height, width)
        where = f'{path} at {batch}x{in_channels}x{height}x{width}'
        with torch.no_grad():
            wanted = model(image)
        try:
            found = session.run(None, {'image': image.numpy()})
        except Exception as error:
            raise UserError(f'{where}: onnxruntime cannot run it: {_first_line(error)}') from error
        for name, a, b in zip([o.name for o in session.get_outputs()], found, wanted):
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


def _first_line(error: Any) -> str:
    return str(error).strip().splitlines()[0]
