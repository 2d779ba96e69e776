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
