"""Detections drawn so that they can be read. This module alone needs mmdet: configs name it."""

import math
from typing import Any, List, Optional, Sequence, Tuple

import mmcv
import numpy as np
import torch
from mmdet.visualization import DetLocalVisualizer

from .room import enlargement

INSTANCES = ('gt_instances', 'pred_instances')
MAPS = ('gt_sem_seg', 'pred_sem_seg', 'gt_panoptic_seg', 'pred_panoptic_seg')
GAP = 3  # pixels around a label
SMALL = 2500  # square pixels: labels keep off smaller boxes

Rectangle = Tuple[float, float, float, float]  # left, top, right, bottom


class ReadableVisualizer(DetLocalVisualizer):
    """mmdet's visualizer with labels that can be read: inside the original, not on each other, and
    beside small objects where there is room near by. Masks have the colours of their classes.

    Args:
        name: Its name; this and all others as :class:`mmdet.visualization.DetLocalVisualizer`.
        short_side: Smaller images are drawn a whole number of times larger, so that their
            shorter side has at least so many pixels, strips fewer. 0: none is.
    """

    def __init__(
        self, name: str = 'visualizer', *args: Any, short_side: int = 480, **kwargs: Any
    ) -> None:
        self._labels: List[Rectangle] = []
        self._boxes: List[Rectangle] = []
        self._colors: Any = None
        self.short_side = short_side
        super().__init__(name, *args, **kwargs)

    def set_image(self, image: np.ndarray) -> None:
        """Begin an image, (H, W, 3)."""
        self._labels, self._boxes, self._colors = [], [], None
        super().set_image(image)

    def draw_bboxes(self, bboxes: Any, *args: Any, **kwargs: Any) -> 'ReadableVisualizer':
        """Draw boxes (N, 4), and remember where they are and their colours."""
        self._boxes += torch.as_tensor(bboxes).reshape(-1, 4).tolist()
        self._colors = kwargs.get('edge_colors')
        super().draw_bboxes(bboxes, *args, **kwargs)
        return self

    def draw_binary_masks(
        self, binary_masks: Any, colors: Any = 'g', *args: Any, **kwargs: Any
    ) -> 'ReadableVisualizer':
        """Draw masks in the colours of their boxes, which mmdet would change at random."""
        if isinstance(self._colors, list) and len(self._colors) == len(binary_masks):
            colors = self._colors
        super().draw_binary_masks(binary_masks, colors, *args, **kwargs)
        return self

    def draw_texts(self, texts: Any, *args: Any, **kwargs: Any) -> 'ReadableVisualizer':
        """Write labels; each moves to the nearest free place."""
        before = len(self.ax_save.texts)
        super().draw_texts(texts, *args, **kwargs)
        for text in self.ax_save.texts[before:]:
            box = text.get_window_extent()  # y upwards
            left, top = box.x0 - GAP, self.height - box.y1 - GAP
            size = box.width + 2 * GAP, box.height + 2 * GAP
            small = [b for b in self._boxes if (b[2] - b[0]) * (b[3] - b[1]) < SMALL]
            x, y = free_place((left, top), size, (self.width, self.height), self._labels, small)
            self._labels.append((x, y, x + size[0], y + size[1]))
            old = text.get_position()
            text.set_position((old[0] + x - left, old[1] + y - top))
        return self

    def add_datasample(
        self, name: str, image: np.ndarray, data_sample: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        """Draw an image, ground truth and predictions; arguments as mmdet has them."""
        factor = enlargement(image.shape[0], image.shape[1], self.short_side)
        if factor > 1 and data_sample is not None and not any(key in data_sample for key in MAPS):
            image = mmcv.imresize(image, (image.shape[1] * factor, image.shape[0] * factor))
            data_sample = enlarged(data_sample, factor)
        super().add_datasample(name, image, data_sample, *args, **kwargs)


def free_place(
    wanted: Tuple[float, float],
    size: Tuple[float, float],
    original: Tuple[float, float],
    taken: List[Rectangle],
    small: Sequence[Rectangle] = (),
) -> Tuple[float, float]:
    """Find a place for a label in the original and off the others.

    Args:
        wanted: Left and top of the label where it should be.
        size: Its width and height.
        original: Width and height of the original.
        taken: Where labels are.
        small: What is kept free too, where that moves the label by its longer side at most.

    Returns:
        Left and top of the place nearest to the wanted one, or that one if there is none.
    """
    x, y = (max(0.0, min(w, p - s)) for w, p, s in zip(wanted, original, size))
    start, found = (x, y), None
    if small:
        found = _nearest_place(start, size, original, [*taken, *small], max(size))
    return found or _nearest_place(start, size, original, taken, math.inf) or start


def _nearest_place(
    start: Tuple[float, ...],
    size: Tuple[float, float],
    original: Tuple[float, float],
    taken: List[Rectangle],
    reach: float,
) -> Optional[Tuple[float, float]]:
    """The free place nearest to a start, at most so far away in x and y."""
    rectangles = np.array(taken).reshape(-1, 4)
    coordinates, overlaps = [], []
    for axis in (0, 1):
        low, high = rectangles[:, axis], rectangles[:, axis + 2]
        last = original[axis] - size[axis]
        # what touches a rectangle or an edge of the original, or keeps the coordinate
        places = np.concatenate([[start[axis], 0.0, last], high, low - size[axis]])
        places = places[(places >= 0) & (places <= last) & (abs(places - start[axis]) <= reach)]
        coordinates.append(places)
        overlaps.append((places[:, None] < high) & (places[:, None] + size[axis] > low))
    xs, ys = coordinates
    distance = abs(xs - start[0])[:, None] + abs(ys - start[1])
    distance[overlaps[0].astype(float) @ overlaps[1].T > 0] = math.inf
    if not np.isfinite(distance).any():
        return None
    i, j = np.unravel_index(distance.argmin(), distance.shape)
    return float(xs[i]), float(ys[j])


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
