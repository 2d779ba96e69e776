"""What a pixel attends to, groups and feature maps of files; backbones and necks run alone."""

from typing import List, Optional, Sequence, Tuple

import mmcv
import numpy as np

from .. import visualization
from ..cli.outputs import whole_output
from ..errors import UserError
from ..visualization import AttentionMap, Placement
from .inputs import Image
from .predictor import Predictor


def find_attention(
    predictor: Predictor,
    image: Image,
    pixel: Tuple[int, int],
    layers: Optional[Sequence[str]] = None,
) -> Tuple[List[AttentionMap], Placement]:
    """Find where a pixel looks.

    Args:
        predictor: The model.
        image: A file or an array, which goes through the test pipeline as a whole.
        pixel: ``(x, y)`` in pixels of the image.
        layers: Blocks, see :func:`gcvit_mm.visualization.find_blocks`.

    Returns:
        A map a block, and where what they are maps of lies in the image.

    Raises:
        UserError: If the test pipeline cuts the pixel off.
    """
    inputs, meta = predictor.prepare(image)
    placement = Placement.of(meta)
    point = placement.to_image(*pixel)
    if not placement.holds(*point):
        name = 'the image' if isinstance(image, np.ndarray) else image
        raise UserError(
            f'the test pipeline of {predictor.cfg.filename} cuts pixel {pixel[0]},{pixel[1]} of '
            f'{name} off: choose one nearer to the middle'
        )
    backbone = predictor.model.backbone
    return visualization.attention_maps(backbone, inputs, point, layers), placement


def draw_attention(
    predictor: Predictor,
    path: str,
    out_file: str,
    pixel: Tuple[int, int],
    layers: Optional[Sequence[str]] = None,
) -> None:
    """Draw where a pixel looks, see :func:`find_attention`, into a PNG file.

    Raises:
        UserError: If the test pipeline cuts the pixel off, or the file cannot be written.
    """
    found, placement = find_attention(predictor, path, pixel, layers)
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
