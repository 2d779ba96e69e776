"""Drawn batches: pictures of a given size with objects, as the pipelines of the libraries pack."""

from typing import Any, Dict, Tuple

import numpy as np
import torch

Size = Tuple[int, int]  # height, width


def make_batch(
    scope: str, size: Size, count: int, objects: int, classes: int, masks: bool = False
) -> Dict[str, Any]:
    """Make a batch on the CPU, with noise for pictures.

    Args:
        scope: 'mmdet', 'mmseg' or 'mmpretrain'.
        size: Height and width of the pictures.
        count: Pictures.
        objects: Boxes in each, of a detector.
        classes: Classes that labels are drawn of.
        masks: Whether boxes have masks.
    """
    samples = [make_sample(scope, size, objects, classes, masks) for _ in range(count)]
    pictures = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for _ in range(count)]
    if scope == 'mmpretrain':
        return dict(inputs=torch.stack(pictures), data_samples=samples)
    return dict(inputs=pictures, data_samples=samples)


def make_sample(scope: str, size: Size, objects: int, classes: int, masks: bool) -> Any:
    """What is known of one picture."""
    meta = dict(
        img_shape=size,
        ori_shape=size,
        pad_shape=size,
        scale_factor=(1.0, 1.0),
        img_id=0,
        img_path='',
        flip=False,
        flip_direction=None,
    )
    if scope == 'mmpretrain':
        from mmpretrain.structures import DataSample

        return DataSample(metainfo=meta).set_gt_label(0)
    if scope == 'mmseg':
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        sample = SegDataSample(metainfo=meta)
        sample.gt_sem_seg = PixelData(data=torch.randint(0, classes, (1, *size)))
        return sample
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    boxes, labels = draw_boxes(size, objects, classes)
    sample = DetDataSample(metainfo=meta)
    sample.gt_instances = instances(boxes, labels, size, masks)
    sample.ignored_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64)
    )
    if masks:
        sample.ignored_instances.masks = bitmaps(np.zeros((0, 4)), size)
    return sample


def draw_boxes(size: Size, objects: int, classes: int) -> Tuple[np.ndarray, np.ndarray]:
    """Boxes (objects, 4) of many sizes, and their labels."""
    rng = np.random.default_rng(0)
    height, width = size
    sides = np.exp(rng.uniform(np.log(0.03), np.log(0.6), (objects, 2))) * (width, height)
    start = rng.uniform(0, 1, (objects, 2)) * ((width, height) - sides)
    boxes = np.concatenate([start, start + sides], 1).astype(np.float32)
    return boxes, rng.integers(0, classes, objects)


def instances(boxes: np.ndarray, labels: np.ndarray, size: Size, masks: bool) -> Any:
    """Boxes, labels and masks of a picture."""
    from mmengine.structures import InstanceData

    found = InstanceData(
        bboxes=torch.tensor(boxes.tolist()).reshape(-1, 4), labels=torch.tensor(labels.tolist())
    )
    if masks:
        found.masks = bitmaps(boxes, size)
    return found


def bitmaps(boxes: np.ndarray, size: Size) -> Any:
    """Masks that fill boxes."""
    from mmdet.structures.mask import BitmapMasks

    filled = np.zeros((len(boxes), *size), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(filled, boxes.astype(int)):
        mask[y1 : y2 + 1, x1 : x2 + 1] = 1
    return BitmapMasks(filled, *size)
