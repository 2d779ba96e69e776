"""Boxes and masks as COCO JSON, with numpy alone."""

from typing import Any, Dict, List, Sequence

import numpy as np


def run_lengths(mask: np.ndarray) -> Dict[str, Any]:
    """A mask (H, W) in COCO's compressed form, as pycocotools encodes it.

    Lengths of runs, down the columns, the first of them of zeros; each as the difference from the
    one before the last, in digits of 5 bits.
    """
    flat = np.asarray(mask, bool).ravel(order='F')
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    if flat.size and flat[0]:
        counts = [0, *counts]
    digits = []
    for i, count in enumerate(counts):
        rest = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            digit, rest = rest & 31, rest >> 5
            more = rest != (-1 if digit & 16 else 0)
            digits.append(chr(48 + digit + 32 * more))
    return {'size': [int(side) for side in mask.shape], 'counts': ''.join(digits)}


def coco_json(predictions: Sequence[Any], classes: Sequence[str], ids: Sequence[int]) -> dict:
    """Boxes of several pictures as a COCO data set.

    Args:
        predictions: :class:`gcvit_mm.deploy.Prediction` of detectors.
        classes: Names.
        ids: Category id of each class.

    Returns:
        A dict for :func:`json.dump`: images are numbered from 1, annotations have a score. Its
        'annotations' alone are what pycocotools' ``loadRes`` takes.
    """
    images: List[dict] = []
    annotations: List[dict] = []
    for number, found in enumerate(predictions, 1):
        height, width = found.size
        images.append(dict(id=number, file_name=found.path, height=height, width=width))
        corners = np.asarray(found.boxes, float)
        for i, (x1, y1, x2, y2) in enumerate(corners.tolist()):
            row = dict(
                id=len(annotations) + 1,
                image_id=number,
                category_id=ids[found.labels[i]],
                bbox=[x1, y1, x2 - x1, y2 - y1],
                score=float(found.scores[i]),
                iscrowd=0,
                area=(x2 - x1) * (y2 - y1),
            )
            if found.grids is not None:
                mask = found.mask(i)
                row.update(segmentation=run_lengths(mask), area=float(mask.sum()))
            annotations.append(row)
    categories = [dict(id=i, name=name) for i, name in zip(ids, classes)]
    return dict(images=images, annotations=annotations, categories=categories)
