"""Detections drawn so that they can be read. This module alone needs mmdet: configs name it."""

import math
from typing import Any, List, Tuple

import mmcv
import numpy as np
import torch
from mmdet.visualization import DetLocalVisualizer

INSTANCES = ('gt_instances', 'pred_instances')
MAPS = ('gt_sem_seg', 'pred_sem_seg', 'gt_panoptic_seg', 'pred_panoptic_seg')
GAP = 3  # pixels around a label

Rectangle = Tuple[float, float, float, float]  # left, top, right, bottom


class ReadableVisualizer(DetLocalVisualizer):
    """mmdet's visualizer with labels that do not lie on each other, nor outside the original.

    Args:
        name: Its name; this and all others as :class:`mmdet.visualization.DetLocalVisualizer`.
        short_side: Smaller images are drawn a whole number of times larger, so that their
            shorter side has at least so many pixels. 0: none is.
    """

    def __init__(
        self, name: str = 'visualizer', *args: Any, short_side: int = 480, **kwargs: Any
    ) -> None:
        self._labels: List[Rectangle] = []
        self.short_side = short_side
        super().__init__(name, *args, **kwargs)

    def set_image(self, image: np.ndarray) -> None:
        """Begin an image, (H, W, 3)."""
        self._labels = []
        super().set_image(image)

    def draw_texts(self, texts: Any, *args: Any, **kwargs: Any) -> 'ReadableVisualizer':
        """Write labels; each moves to the nearest free place."""
        before = len(self.ax_save.texts)
        super().draw_texts(texts, *args, **kwargs)
        for text in self.ax_save.texts[before:]:
            box = text.get_window_extent()  # y upwards
            left, top = box.x0 - GAP, self.height - box.y1 - GAP
            size = box.width + 2 * GAP, box.height + 2 * GAP
            x, y = free_place((left, top), size, (self.width, self.height), self._labels)
            self._labels.append((x, y, x + size[0], y + size[1]))
            old = text.get_position()
            text.set_position((old[0] + x - left, old[1] + y - top))
        return self

    def add_datasample(
        self, name: str, image: np.ndarray, data_sample: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        """Draw an image, ground truth and predictions; arguments as mmdet has them."""
        factor = math.ceil(self.short_side / min(image.shape[:2])) if self.short_side else 1
        if factor > 1 and data_sample is not None and not any(key in data_sample for key in MAPS):
            image = mmcv.imresize(image, (image.shape[1] * factor, image.shape[0] * factor))
            data_sample = enlarged(data_sample, factor)
        super().add_datasample(name, image, data_sample, *args, **kwargs)


def free_place(
    wanted: Tuple[float, float],
    size: Tuple[float, float],
    original: Tuple[float, float],
    taken: List[Rectangle],
) -> Tuple[float, float]:
    """Find a place for a label in the original and off the others.

    Args:
        wanted: Left and top of the label where it should be.
        size: Its width and height.
        original: Width and height of the original.
        taken: Where labels are.

    Returns:
        Left and top of the place nearest to the wanted one, or that one if there is none.
    """
    left, top = (max(0.0, min(w, p - s)) for w, p, s in zip(wanted, original, size))
    right, bottom = (p - s for p, s in zip(original, size))
    # what touches another label or an edge of the original, and keeps the other coordinate
    lefts = [left, 0.0, right, *(edge for t in taken for edge in (t[2], t[0] - size[0]))]
    tops = [top, 0.0, bottom, *(edge for t in taken for edge in (t[3], t[1] - size[1]))]
    places = sorted(
        ((x, y) for x in lefts for y in tops),
        key=lambda place: abs(place[0] - left) + abs(place[1] - top),
    )
    for x, y in places:
        inside = 0 <= x <= right and 0 <= y <= bottom
        if inside and all(
            x >= t[2] or x + size[0] <= t[0] or y >= t[3] or y + size[1] <= t[1] for t in taken
        ):
            return x, y
    return left, top


def enlarged(data_sample: Any, factor: int) -> Any:
    """Boxes and masks of a sample for an image that many times larger; the sample stays."""
    data_sample = data_sample.clone()
    for key in INSTANCES:
        if key not in data_sample:
            continue
        instances = data_sample.get(key).clone()
        if 'bboxes' in instances:
            instances.bboxes = instances.bboxes * factor
        masks = instances.get('masks')
        if isinstance(masks, (torch.Tensor, np.ndarray)):
            masks = torch.as_tensor(masks).repeat_interleave(factor, 1)
            instances.masks = masks.repeat_interleave(factor, 2)
        elif masks is not None:
            instances.masks = masks.resize((masks.height * factor, masks.width * factor))
        setattr(data_sample, key, instances)
    return data_sample
