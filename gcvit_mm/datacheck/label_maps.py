"""What check-data asks of the label maps of segmentation."""

import os.path as osp
from typing import Any, List

import mmcv
import numpy as np

from .datasets import dicts_inside
from .images import read_image
from .report import Report, report_missing, some

IGNORED = 255


def check_maps(
    loader: str, dataset: Any, rows: List[dict], sample: List[dict], node: dict, report: Report
) -> None:
    """Every image has its label map, of its size, and the labels are classes."""
    where = f'{loader}: {dataset.data_prefix.get("seg_map_path")}'
    report_missing(where, [row['seg_map_path'] for row in rows], report)
    classes = len(dataset.metainfo['classes'])
    reduce = bool(dataset.reduce_zero_label)
    for step in dicts_inside(node.get('pipeline')):
        if step.get('type') == 'LoadAnnotations':
            own = step.get('reduce_zero_label')
            if own is not None and bool(own) != reduce:
                report.error(
                    f'{loader}: reduce_zero_label is {reduce} in the data set and {own} in '
                    'LoadAnnotations: set it in the data set only'
                )
    seen: set = set()
    for row in sample:
        labels = read_map(row['seg_map_path'])
        if labels is None:
            if osp.isfile(row['seg_map_path']):
                report.error(
                    f'{loader}: {row["seg_map_path"]} cannot be read: it is no image, or damaged'
                )
            continue
        if labels.ndim != 2:
            report.error(
                f'{loader}: {row["seg_map_path"]} has colours: a label map has one byte '
                'a pixel, the number of its class'
            )
            continue
        image = read_image(row['img_path'])
        if image is not None and image.shape[:2] != labels.shape:
            report.error(
                f'{loader}: {row["seg_map_path"]} has {labels.shape[::-1]} pixels, its '
                f'image {image.shape[1::-1]}'
            )
        values = set(np.unique(labels).tolist())
        seen |= values
        mapped = {(dataset.label_map or {}).get(value, value) for value in values}
        good = (
            set(range(int(reduce), classes + int(reduce))) | {IGNORED} | ({0} if reduce else set())
        )
        if mapped - good:
            report.error(
                f'{loader}: {row["seg_map_path"]} holds {some(sorted(mapped - good))}, beyond '
                f'{classes} classes{" from 1 up" if reduce else ""} and {IGNORED} (ignored)'
                + hint_zero(values, classes, reduce)
            )
    labels_seen = seen - {IGNORED}
    if sample and seen and not labels_seen - ({0} if reduce else set()):
        report.error(
            f'{loader}: no label in {len(sample)} maps but {some(sorted(seen))}, which are ignored'
        )
    if reduce and labels_seen and 0 not in seen and max(labels_seen) < classes:
        report.warn(
            f'{loader}: reduce_zero_label ignores 0, which none of {len(sample)} maps '
            'holds: should it be False?'
        )


def hint_zero(values: set, classes: int, reduce: bool) -> str:
    """What to set where the labels of a map begin at 1."""
    if not reduce and 0 not in values and max(values - {IGNORED}, default=0) == classes:
        return ': set reduce_zero_label=True if the classes begin at 1'
    return ': mark other pixels 255, or add classes'


def read_map(path: str) -> Any:
    """Read a label map as mmseg does, None where that fails."""
    if not osp.isfile(path):
        return None
    try:
        labels = mmcv.imread(path, flag='unchanged', backend='pillow')
        return labels[..., 0] if labels.ndim == 3 and labels.shape[2] == 1 else labels
    except Exception:  # Pillow raises all kinds of errors
        return None
