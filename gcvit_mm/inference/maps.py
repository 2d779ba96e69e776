"""What a pixel attends to, groups and feature maps of files; backbones and necks run alone."""

from typing import Optional, Sequence, Tuple

import mmcv

from .. import visualization
from ..cli.outputs import whole_output
from ..errors import UserError
from ..visualization import Placement
from .predictor import Predictor


def draw_attention(
    predictor: Predictor,
    path: str,
    out_file: str,
    pixel: Tuple[int, int],
    layers: Optional[Sequence[str]] = None,
) -> None:
    """Draw where a pixel looks.

    Args:
        predictor: The model.
        path: The image, which goes through the test pipeline as a whole.
        out_file: PNG file to write.
        pixel: ``(x, y)`` in pixels of the image.
        layers: Blocks, see :func:`gcvit_mm.visualization.find_blocks`.

    Raises:
        UserError: If the test pipeline cuts the pixel off, or the file cannot be written.
    """
    inputs, meta = predictor.prepare(path)
    placement = Placement.of(meta)
    point = placement.to_image(*pixel)
    if not placement.holds(*point):
        raise UserError(
            f'the test pipeline of {predictor.cfg.filename} cuts pixel {pixel[0]},{pixel[1]} of '
            f'{path} off: choose one nearer to the middle'
        )
    found = visualization.attention_maps(predictor.model.backbone, inputs, point, layers)
    image = mmcv.imread(path, channel_order='rgb')
    with whole_output(out_file) as partial:
        visualization.draw(image, pixel, found, placement, partial)


def draw_groups(
    predictor: Predictor,
    path: str,
    out_file: str,
    layers: Optional[Sequence[str]] = None,
    groups: Sequence[int] = (),
) -> None:
    """Draw to which group token of GPViT each cell gives most.

    Args:
        predictor: The model.
        path: The image.
        out_file: PNG file to write.
        layers: Blocks, see :func:`gcvit_mm.visualization.find_groups`.
        groups: Numbers of groups; all by default.

    Raises:
        UserError: If the model has none, or the file cannot be written.
    """
    inputs, meta = predictor.prepare(path)
    found = visualization.group_maps(predictor.model.backbone, inputs, layers, groups)
    image = mmcv.imread(path, channel_order='rgb')
    with whole_output(out_file) as partial:
        visualization.draw(image, None, found, Placement.of(meta), partial)


def draw_features(
    models: Sequence[Tuple[str, Predictor]], path: str, out_file: str, layers: Sequence[str]
) -> None:
    """Draw what layers give, a row a model.

    Args:
        models: Title of the row, and model.
        path: The image.
        out_file: PNG file to write.
        layers: Layers of each model, see :func:`gcvit_mm.visualization.find_layers`.

    Raises:
        UserError: If a layer gives no map, or the file cannot be written.
    """
    rows = []
    for title, predictor in models:
        inputs, meta = predictor.prepare(path)
        found = visualization.feature_maps(predictor.model, inputs, layers)
        rows.append((title, Placement.of(meta), found))
    with whole_output(out_file) as partial:
        visualization.draw_features(mmcv.imread(path, channel_order='rgb'), rows, partial)
