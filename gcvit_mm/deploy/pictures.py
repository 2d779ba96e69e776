"""Pictures, label maps and masks with numpy and Pillow alone, as the OpenMMLab pipelines have them.

Nothing here knows torch, so that a file can be used without it.
"""

import os
import os.path as osp
from typing import Any, Dict, List, Tuple

import numpy as np
from PIL import Image, ImageOps

from ..errors import UserError

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')
PILLOW = {'nearest': 0, 'lanczos': 1, 'bilinear': 2, 'bicubic': 3}
Step = Dict[str, Any]


def find(source: str) -> List[str]:
    """Paths of pictures: that of a file, or of all pictures of a folder by name.

    Raises:
        UserError: If there is no such file, or no picture in the folder.
    """
    if osp.isfile(source):
        return [source]
    if not osp.isdir(source):
        raise UserError(f'image {source} does not exist: check the path')
    names = sorted(name for name in os.listdir(source) if name.lower().endswith(SUFFIXES))
    if not names:
        raise UserError(f'{source} has no images ({", ".join(SUFFIXES)}): name another folder')
    return [osp.join(source, name) for name in names]


def read(source: Any) -> np.ndarray:
    """Read a picture, turned upright.

    Args:
        source: Path, Pillow image, or array (H, W, C) or (H, W) of bytes: RGB if C is 3.

    Returns:
        Array (H, W, C), uint8; RGB, but for arrays of other C.

    Raises:
        UserError: If it cannot be decoded, or is no such array.
    """
    if isinstance(source, Image.Image):
        image = ImageOps.exif_transpose(source)
        if image.mode.startswith('I'):  # 16 bits of gray, which convert() would cut off at 255
            return read((np.asarray(image) >> 8).astype(np.uint8))
        return np.asarray(image.convert('RGB'))
    if isinstance(source, np.ndarray):
        array = source[..., None].repeat(3, 2) if source.ndim == 2 else source
        if array.ndim != 3 or array.dtype != np.uint8 or not array.size:
            raise UserError(
                f'an image is an array {source.shape} of {source.dtype}: give (height, width, 3) '
                'of uint8, as RGB'
            )
        return array
    path = os.fspath(source)
    if not osp.isfile(path):
        raise UserError(f'image {path} does not exist: check the path')
    try:
        with Image.open(path) as image:
            return read(image)
    except Exception as error:  # the decoders raise all kinds of errors
        raise UserError(
            f'image {path} cannot be read: it is no image, or damaged: replace it'
        ) from error


def prepare(image: np.ndarray, steps: List[Step]) -> np.ndarray:
    """Resize and crop a picture (H, W, C) as a test pipeline does.

    Args:
        image: The picture.
        steps: Steps of the pipeline, see :func:`gcvit_mm.deploy.metadata.pipeline_steps`.
    """
    for step in steps:
        height, width = image.shape[:2]
        if step['type'] == 'CenterCrop':
            w, h = (min(a, b) for a, b in zip(step['crop_size'], (width, height)))
            top, left = round((height - h) / 2), round((width - w) / 2)
            image = image[top : top + h, left : left + w]
        else:
            image = resize(image, *size_after(step, height, width), step)
    return image


def size_after(step: Step, height: int, width: int) -> Tuple[int, int]:
    """Height and width of a picture after a step; mmcv rounds so."""
    if step['type'] == 'ResizeToMultiple':
        return tuple(-(-side // step['divisor']) * step['divisor'] for side in (height, width))
    if step['type'] == 'ResizeEdge':
        scale = step['scale']
        by_width = {'short': width < height, 'long': width > height, 'width': True}
        if by_width.get(step['edge'], False):
            return int(scale * height / width), scale
        return scale, int(scale * width / height)
    if step['scale']:
        scale = step['scale']
    else:
        scale = [int(side * f + 0.5) for side, f in zip((width, height), step['scale_factor'])]
    if not step['keep_ratio']:
        return scale[1], scale[0]
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def resize(image: np.ndarray, height: int, width: int, step: Step) -> np.ndarray:
    """Resize a picture (H, W, C) as Pillow, or bilinearly as OpenCV up to its rounding."""
    height, width = max(height, 1), max(width, 1)
    if image.shape[:2] == (height, width):
        return image
    if step.get('backend') == 'pillow':
        how = Image.Resampling(PILLOW[step['interpolation']])
        return np.asarray(Image.fromarray(image).resize((width, height), how))
    resized = bilinear(image.transpose(2, 0, 1), height, width)
    return (resized + 0.5).astype(np.uint8).transpose(1, 2, 0)


def bilinear(x: np.ndarray, height: int, width: int, align_corners: bool = False) -> np.ndarray:
    """Resize maps (..., H, W) to (..., height, width), as torch's ``interpolate``."""
    for axis, side in ((-2, height), (-1, width)):
        old = x.shape[axis]
        if align_corners:
            place = np.linspace(0, old - 1, side)
        else:
            place = ((np.arange(side) + 0.5) * (old / side) - 0.5).clip(0, old - 1)
        low = place.astype(np.int64)
        share = (place - low).astype(np.float32)
        share = share[:, None] if axis == -2 else share
        high = np.minimum(low + 1, old - 1)
        x = x.take(low, axis) * (1 - share) + x.take(high, axis) * share
    return x


def paste(
    grid: np.ndarray, box: np.ndarray, height: int, width: int, threshold: float
) -> np.ndarray:
    """Paste a mask into a picture, as mmdet does.

    Args:
        grid: Probabilities (h, w) over the box.
        box: (4,) as x1, y1, x2, y2 in pixels.
        height: Height of the picture.
        width: Its width.
        threshold: Least probability of a pixel of the mask.

    Returns:
        Mask (H, W), bool.
    """
    mask = np.zeros((height, width), bool)
    places, weights = [], []
    for low, high, end, cells in zip(box[1::-1], box[:1:-1], (height, width), grid.shape):
        first = max(int(np.floor(low)) - 1, 0)
        last = max(min(int(np.ceil(high)) + 1, end), first)
        place = np.arange(first, last, dtype=np.float32) + 0.5 - low
        # a box without extent looks at the middle of its grid
        place = place / (high - low) * cells - 0.5 if high > low else place * 0 + cells / 2 - 0.5
        places.append(slice(first, last))
        weights.append(np.maximum(0, 1 - np.abs(place[:, None] - np.arange(cells))))
    mask[places[0], places[1]] = weights[0] @ grid @ weights[1].T >= threshold
    return mask
