"""Predictions as files that other programs read."""

import json
import os
import os.path as osp
from typing import Any, List, Optional

from ..cli.outputs import whole_output
from ..errors import UserError
from .results import Classification, CocoIds, Detections, Path, Prediction


class JsonFile:
    """Gathers detections or classes of images one by one, then writes them.

    Of detectors COCO's results, boxes of all scores, as :meth:`Predictions.to_coco`. Of classifiers
    ``classes``, their names by number, and ``images``: ``image``, ``label`` (number of the
    likeliest class), ``name`` and ``scores`` of all classes by number.

    Args:
        path: The file.
        ids: Ids of images and classes.
    """

    def __init__(self, path: Path, ids: CocoIds) -> None:
        self.path = os.fspath(path)
        self.ids = ids
        self._results: List[dict] = []
        self._classes: Optional[List[str]] = None

    def add(self, name: str, prediction: Prediction) -> None:
        """Add what was said of an image, or of a frame of a video.

        Raises:
            UserError: If it is a label map, or annotations do not have the image.
        """
        if isinstance(prediction, Detections):
            categories = self.ids.categories(prediction.classes)
            self._results += prediction.to_coco(self.ids.image(name), categories)
        elif isinstance(prediction, Classification):
            self._classes = list(prediction.classes)
            scores = [round(float(score), 6) for score in prediction.scores]
            found = dict(image=name, label=prediction.label, name=prediction.name, scores=scores)
            self._results.append(found)
        else:
            raise UserError('label maps are no JSON: give a folder for PNG files')

    def write(self) -> None:
        """Write the file, whole or not at all.

        Raises:
            UserError: If it cannot be written.
        """
        content: Any = self._results
        if self._classes is not None:
            content = dict(classes=self._classes, images=self._results)
        with whole_output(self.path) as partial, open(partial, 'w', encoding='utf-8') as file:
            json.dump(content, file)


def map_name(path: str) -> str:
    """Name of the label map of an image: ``street.png`` for ``photos/street.jpg``."""
    return osp.splitext(osp.basename(path))[0] + '.png'
