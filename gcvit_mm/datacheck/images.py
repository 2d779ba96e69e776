"""Reading images."""

import os.path as osp
from typing import Any, List

import mmcv

from .report import Report


def read_image(path: str) -> Any:
    """Read an image as the pipelines do, None where that fails."""
    try:
        return mmcv.imread(path)
    except Exception:  # the decoders raise all kinds of errors
        return None


def room_for_text(height: int, width: int) -> dict:
    """Option of mmpretrain's visualizer that enlarges small images, but no strip a pixel high."""
    short, long = min(height, width), max(height, width)
    side = min(224, 2240 * short // long)
    return dict(resize=side) if side > short else {}


def enlargement(height: int, width: int, short_side: int = 480) -> int:
    """How many times larger a small image is drawn for its texts to have room.

    Its shorter side gets at least ``short_side`` pixels then, but no strip is drawn longer than ten
    times that.
    """
    short, long = min(height, width), max(height, width)
    return max(1, min(-(-short_side // short), 10 * short_side // long))


def check_images(where: str, rows: List[dict], report: Report) -> None:
    """Images can be read, and are as large as their annotations say."""
    for row in rows:
        path = row['img_path']
        if not osp.isfile(path):
            continue  # counted as missing
        image = read_image(path)
        if image is None:
            report.error(f'{where}: {path} cannot be read: it is no image, or damaged')
        elif 'height' in row and (row['height'], row['width']) != image.shape[:2]:
            report.error(
                f'{where}: {path} has {image.shape[1]} x {image.shape[0]} pixels, its annotation '
                f'{row["width"]} x {row["height"]}'
            )
