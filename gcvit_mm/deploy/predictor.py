"""Predicting with an exported file: numpy, Pillow and onnxruntime or OpenVINO, no torch."""

import json
import os
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ..errors import UserError
from .coco import coco_json
from .engines import first_line, open_engine
from .pictures import bilinear, find, paste, prepare, read

FORMAT = 1  # of what a file says of itself


@dataclass
class Prediction:
    """What a file says of a picture, in pixels of the original; None is what its task has not.

    Attributes:
        path: File of the picture, '' for an array.
        size: Its height and width.
        scores: Of boxes (N,), the best first; of a classifier the score of its class, (1,).
        labels: Classes of these, int64.
        names: Their names.
        boxes: (N, 4) as x1, y1, x2, y2.
        grids: Probabilities (N, h, w) of masks, over the boxes; see :meth:`mask`.
        mask_thr: Least probability of a pixel of a mask.
        label_map: Class of each pixel, (H, W), int32.
        probabilities: Of all classes, (C,).
    """

    path: str
    size: Tuple[int, int]
    scores: Optional[np.ndarray] = None
    labels: Optional[np.ndarray] = None
    names: Optional[List[str]] = None
    boxes: Optional[np.ndarray] = None
    grids: Optional[np.ndarray] = None
    mask_thr: float = 0.5
    label_map: Optional[np.ndarray] = None
    probabilities: Optional[np.ndarray] = None

    def mask(self, i: int) -> np.ndarray:
        """Mask (H, W) of box i, bool."""
        assert self.grids is not None and self.boxes is not None
        return paste(self.grids[i], self.boxes[i], *self.size, self.mask_thr)

    @property
    def masks(self) -> Optional[np.ndarray]:
        """All masks, (N, H, W), None if there are none in the file."""
        if self.grids is None:
            return None
        masks = [self.mask(i) for i in range(len(self.grids))]
        return np.stack(masks) if masks else np.zeros((0, *self.size), bool)


class Predictor:
    """A model that ``tools/export_onnx.py`` has written.

    Args:
        path: The file.
        score_thr: Least score of a box; by default that of the file, below which it has none.
        threads: Threads of the engine; 0: as it chooses.
        engine: What runs the file: 'onnxruntime'; 'openvino', in float32; 'openvino-auto', in the
            precision that OpenVINO chooses for the processor.
        options: Of the engine: ``providers`` of onnxruntime.

    Attributes:
        facts: What the file says of itself; docs/export.md lists it.
        task: 'detector', 'segmentor' or 'classifier'.
        classes: Names of the classes.

    Raises:
        UserError: If the file is none of ours, or the engine is missing or cannot read it.
    """

    def __init__(
        self,
        path: str,
        score_thr: Optional[float] = None,
        threads: int = 0,
        engine: str = 'onnxruntime',
        **options: Any,
    ) -> None:
        self.path = os.fspath(path)
        self.engine = open_engine(self.path, engine, threads, **options)
        self.facts = read_facts(self.path, self.engine.stored)
        self.task = self.facts['task']
        self.classes: List[str] = self.facts['classes']
        self.score_thr = self.facts.get('score_thr', 0.0) if score_thr is None else score_thr
        if self.task == 'backbone':
            raise UserError(f'{self.path} is a backbone, which predicts nothing: export a model')

    def __call__(self, source: Any) -> List[Prediction]:
        """Predict.

        Args:
            source: A picture, a folder of them, or a list of both. A picture is a path, a Pillow
                image or an array (H, W, 3) of RGB bytes.

        Returns:
            A prediction for each.

        Raises:
            UserError: If a picture cannot be read; the message names it.
        """
        sources = source if isinstance(source, (list, tuple)) else [source]
        pictures: List[Any] = []
        for one in sources:
            pictures += find(os.fspath(one)) if isinstance(one, (str, os.PathLike)) else [one]
        return [self.predict(picture) for picture in pictures]

    def predict(self, picture: Any) -> Prediction:
        """Predict for one picture.

        Raises:
            UserError: If it cannot be read, or the file does not take it.
        """
        steps = self.facts['prepare']
        if steps is None:
            raise UserError(
                f'{self.path} does not say how pictures are resized ({self.facts["unknown"]}): '
                'prepare them, and call detect(), segment() or classify()'
            )
        path = os.fspath(picture) if isinstance(picture, (str, os.PathLike)) else ''
        image = read(picture)
        prepared = prepare(image, steps)
        if self.task == 'detector':
            scale = [b / a for a, b in zip(image.shape[1::-1], prepared.shape[1::-1])]
            return self.detect(prepared, scale, image.shape[:2], path)
        if self.task == 'segmentor':
            return self.segment(prepared, image.shape[:2], path)
        return self.classify(prepared, image.shape[:2], path)

    def inputs(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """What the file takes for pictures (H, W, C) of one size, prepared; C as RGB.

        Raises:
            UserError: If it does not take them.
        """
        facts = self.facts
        batch = np.stack(images)
        if batch.shape[3] != facts['channels']:
            raise UserError(
                f'{self.path} takes pictures of {facts["channels"]} channels, not {batch.shape[3]}'
            )
        size = facts['size']
        if size and list(batch.shape[:3]) != [1, *size]:
            raise UserError(
                f'{self.path} takes one picture of {size[0]}x{size[1]} only, and was to take '
                f'{batch.shape[0]} of {batch.shape[1]}x{batch.shape[2]}: export it without --fixed'
            )
        if facts['input'] == 'float32':
            if facts['order'] == 'BGR':
                batch = batch[..., ::-1]
            mean, std = (np.array(facts[key], np.float32) for key in ('mean', 'std'))
            batch = (batch - mean) / std
        return np.ascontiguousarray(batch.transpose(0, 3, 1, 2))

    def run(self, images: Sequence[np.ndarray]) -> Dict[str, np.ndarray]:
        """Outputs of the file for pictures, see :meth:`inputs`.

        Raises:
            UserError: If the file does not take them.
        """
        x = self.inputs(images)
        try:
            return self.engine.run(x)
        except Exception as error:  # the engines' errors have no common class of their own
            shape = 'x'.join(map(str, x.shape))
            raise UserError(
                f'{self.path} at {shape}: {self.engine.name} cannot run it: {first_line(error)}'
            ) from error

    def detect(
        self,
        image: np.ndarray,
        scale: Sequence[float] = (1.0, 1.0),
        size: Optional[Sequence[int]] = None,
        path: str = '',
    ) -> Prediction:
        """Boxes of a prepared picture (H, W, C).

        Args:
            image: The picture.
            scale: How much wider and higher it is than the original.
            size: Height and width of the original; by default its own.
            path: File of the original.
        """
        outputs = self.run([image])
        chosen = outputs['scores'] > self.score_thr
        labels = outputs['labels'][chosen]
        return Prediction(
            path,
            _size(image if size is None else size),
            outputs['scores'][chosen],
            labels,
            [self.classes[label] for label in labels],
            outputs['boxes'][chosen] / np.array([*scale, *scale], np.float32),
            outputs['masks'][chosen] if 'masks' in outputs else None,
            self.facts.get('mask_thr', 0.5),
        )

    def segment(
        self, image: np.ndarray, size: Optional[Sequence[int]] = None, path: str = ''
    ) -> Prediction:
        """Label map of a prepared picture (H, W, C); other arguments as :meth:`detect`."""
        facts = self.facts
        height, width = size = _size(image if size is None else size)
        logits = self._windows(image) if facts['mode'] == 'slide' else self._logits(image)
        logits = bilinear(logits, height, width, facts['align_corners'])
        if len(logits) > 1:
            label_map = logits.argmax(0)
        else:
            label_map = 1 / (1 + np.exp(-logits[0])) > facts['threshold']
        return Prediction(path, size, label_map=label_map.astype(np.int32))

    def _logits(self, image: np.ndarray) -> np.ndarray:
        """Logits (C, H, W) of a picture, in its size."""
        (logits,) = self.run([image])['logits']
        height, width = image.shape[:2]
        return bilinear(logits, height, width, self.facts['align_corners'])

    def _windows(self, image: np.ndarray) -> np.ndarray:
        """The same from windows that overlap, averaged."""
        sides = list(zip(image.shape, self.facts['crop_size'], self.facts['stride']))
        total: Any = None
        count = np.zeros(image.shape[:2], np.float32)
        starts = [
            [max(min(i * step, side - crop), 0) for i in range(-(-max(side - crop, 0) // step) + 1)]
            for side, crop, step in sides
        ]
        for top in starts[0]:
            for left in starts[1]:
                rows, cols = (slice(a, a + crop) for a, (_, crop, _) in zip((top, left), sides))
                logits = self._logits(image[rows, cols])
                if total is None:
                    total = np.zeros((len(logits), *count.shape), np.float32)
                total[:, rows, cols] += logits
                count[rows, cols] += 1
        return total / count

    def classify(
        self, image: np.ndarray, size: Optional[Sequence[int]] = None, path: str = ''
    ) -> Prediction:
        """Class of a prepared picture (H, W, C); other arguments as :meth:`detect`."""
        (logits,) = self.run([image])['logits']
        powers = np.exp(logits - logits.max())
        probabilities = powers / powers.sum()
        best = probabilities.argmax()
        return Prediction(
            path,
            _size(image if size is None else size),
            probabilities[[best]],
            np.array([best]),
            [self.classes[best]],
            probabilities=probabilities,
        )

    def coco(self, predictions: Sequence[Prediction]) -> dict:
        """Predictions of boxes as COCO JSON, see :func:`gcvit_mm.deploy.coco.coco_json`.

        Raises:
            UserError: If the file is no detector.
        """
        if self.task != 'detector':
            raise UserError(f'{self.path} is a {self.task}: COCO JSON is for boxes')
        return coco_json(predictions, self.classes, self.facts['category_ids'])


def _size(image: Any) -> Tuple[int, int]:
    """Height and width of a picture, or of a size."""
    height, width = getattr(image, 'shape', image)[:2]
    return int(height), int(width)


def read_facts(path: str, stored: Dict[str, str]) -> Dict[str, Any]:
    """What a file says of itself.

    Raises:
        UserError: If it says nothing, or in a way that is newer than this package.
    """
    if 'gcvit_mm' not in stored:
        raise UserError(
            f'{path} is no model of gcvit_mm, or was exported before they said what they are: '
            'export it with tools/export_onnx.py'
        )
    try:
        facts = {key: json.loads(value) for key, value in stored.items()}
        newer = facts['format'] > FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path}: what it says of itself is damaged: export it again') from error
    if newer:
        raise UserError(
            f'{path} was written by gcvit_mm {facts["gcvit_mm"]}, which is newer: update gcvit_mm'
        )
    return facts
