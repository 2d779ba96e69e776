"""What models say of images: plain arrays, in pixels of the images as they are on the disk."""

import json
import os
import os.path as osp
from collections import Counter
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import cv2
import mmcv
import numpy as np
import torch
from mmengine.registry import VISUALIZERS
from mmengine.structures import InstanceData, PixelData

from ..cli.outputs import check_output, make_folder, whole_output
from ..datacheck.report import some
from ..errors import UserError
from ..messages import described, printable
from ..visualization.room import enlargement, room_for_text

Path = Union[str, 'os.PathLike[str]']


@dataclass(repr=False, eq=False)
class Prediction:
    """What a model says of one image.

    Attributes:
        path: The file; None for an image that was given as an array.
        size: Height and width of the image in pixels.
        classes: Names of all classes that the model knows, by their number; empty where neither
            checkpoint nor config has them.
        visualizer: Config of what draws it, with the scope that knows it and ``dataset_meta``.
        pixels: The image (H, W, 3) in RGB where there is no file, else None.
    """

    path: Optional[str]
    size: Tuple[int, int]
    classes: Tuple[str, ...]
    visualizer: Dict[str, Any]
    pixels: Optional[np.ndarray]

    @property
    def image(self) -> np.ndarray:
        """The image (H, W, 3) in RGB, read anew."""
        return mmcv.imread(self.path, channel_order='rgb') if self.pixels is None else self.pixels

    def name_of(self, label: int) -> str:
        """Name of a class, or its number where that is not known."""
        return str(self.classes[label] if label < len(self.classes) else label)

    def draw(self, out_file: Optional[Path] = None, score_thr: float = 0.3) -> np.ndarray:
        """Draw it into the image.

        Args:
            out_file: File to write as well; its ending says in which format.
            score_thr: Least score of a box that is drawn.

        Returns:
            The image (H, W, 3) in RGB. Small ones are enlarged where a text needs the room.

        Raises:
            UserError: If the file would replace the image, or cannot be written.
        """
        if out_file is not None:
            check_output(os.fspath(out_file), [self.path] if self.path else [])
        options = {**self.visualizer, 'vis_backends': []}
        scope, meta, kind = (options.pop(key) for key in ('scope', 'dataset_meta', 'type'))
        with VISUALIZERS.switch_scope_and_registry(options.pop('_scope_', scope)) as registry:
            cls: Any = registry.get(kind) if isinstance(kind, str) else kind
        visualizer = cls(**options)  # not built: that would be the one of the whole process
        visualizer.dataset_meta = dict(meta)
        self._draw(visualizer, score_thr)
        drawn = visualizer.get_image()
        if out_file is not None:
            write_image(drawn, os.fspath(out_file))
        return drawn

    def _draw(self, visualizer: Any, score_thr: float) -> None:
        raise NotImplementedError

    def above(self, score: float) -> 'Prediction':
        """Without boxes of a lower score; what has none stays as it is."""
        return self

    def __repr__(self) -> str:
        kind, (height, width) = type(self).__name__, self.size
        return f'{kind}({printable(self.path or "array")}, {width} x {height}: {self.summary()})'

    def summary(self) -> str:
        """What is in the image, in a few words: '3 person, 1 car'."""
        raise NotImplementedError


def write_image(image: np.ndarray, path: str) -> None:
    """Write an image (H, W, 3) in RGB, or (H, W) in grey, whole or not at all.

    Raises:
        UserError: If that fails, or its ending is that of no format.
    """
    with whole_output(path) as partial:
        try:
            written = mmcv.imwrite(image[..., ::-1] if image.ndim == 3 else image, partial)
        except cv2.error:
            written = False
        if not written:
            raise UserError(f'cannot write {path}: name a file that ends in .png')


@dataclass(repr=False, eq=False)
class Detections(Prediction):
    """Objects, the surest first.

    Attributes:
        boxes: (N, 4), left, top, right and bottom in pixels.
        scores: (N,), 0 to 1.
        labels: (N,), numbers of classes.
        masks: (N, H, W) of bool; None where the model has no masks.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: Optional[np.ndarray]

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> List[str]:
        """Name of the class of every object."""
        return [self.name_of(label) for label in self.labels]

    def above(self, score: float) -> 'Detections':
        """Those of at least this score."""
        kept = self.scores >= score
        masks = None if self.masks is None else self.masks[kept]
        shared = (self.path, self.size, self.classes, self.visualizer, self.pixels)
        return Detections(*shared, self.boxes[kept], self.scores[kept], self.labels[kept], masks)

    def to_coco(
        self, image_id: Union[int, str], category_ids: Optional[Sequence[int]] = None
    ) -> List[dict]:
        """Return COCO's results of this image, masks run-length encoded.

        Args:
            image_id: Id of the image.
            category_ids: Ids of the classes by their number; from 1 upwards by default.
        """
        from pycocotools import mask as coco_mask

        results = []
        for i, (box, score, label) in enumerate(zip(self.boxes, self.scores, self.labels)):
            left, top, right, bottom = map(float, box)
            category = int(label) + 1 if category_ids is None else category_ids[label]
            result = dict(
                image_id=image_id,
                category_id=category,
                bbox=[left, top, right - left, bottom - top],
                score=float(score),
            )
            if self.masks is not None:
                code = coco_mask.encode(np.asfortranarray(self.masks[i], dtype=np.uint8))
                result['segmentation'] = dict(code, counts=code['counts'].decode())
            results.append(result)
        return results

    def _draw(self, visualizer: Any, score_thr: float) -> None:
        from mmdet.structures import DetDataSample

        instances = InstanceData(
            bboxes=torch.as_tensor(self.boxes),
            scores=torch.as_tensor(self.scores),
            labels=torch.as_tensor(self.labels),
        )
        if self.masks is not None:
            instances.masks = torch.as_tensor(self.masks)
        sample = DetDataSample(pred_instances=instances)
        visualizer.add_datasample('', self.image, sample, draw_gt=False, pred_score_thr=score_thr)

    def summary(self) -> str:
        """How many there are of each class, the most frequent first."""
        counts = Counter(self.names).most_common()
        return printable(', '.join(f'{count} {name}' for name, count in counts)) or 'nothing'


@dataclass(repr=False, eq=False)
class Segmentation(Prediction):
    """A class for every pixel.

    Attributes:
        label_map: (H, W), numbers of classes.
    """

    label_map: np.ndarray

    def save(self, out_file: Path) -> None:
        """Write the numbers of the classes, from 0, as a grey PNG of one byte a pixel.

        Two bytes where the model has more than 256 classes. Label maps of data sets with
        ``reduce_zero_label`` (ADE20K) count from 1 instead.

        Raises:
            UserError: If the file would replace the image, or cannot be written.
        """
        path = os.fspath(out_file)
        check_output(path, [self.path] if self.path else [])
        kind = (
            np.uint8 if max(len(self.classes), int(self.label_map.max()) + 1) <= 256 else np.uint16
        )
        write_image(self.label_map.astype(kind), path)

    def _draw(self, visualizer: Any, score_thr: float) -> None:
        from mmseg.structures import SegDataSample

        count = int(self.label_map.max()) + 1
        meta = visualizer.dataset_meta
        if not meta.get('classes'):
            meta['classes'] = [str(label) for label in range(count)]
        if not meta.get('palette'):  # as mmseg's data sets choose them
            meta['palette'] = np.random.RandomState(42).randint(0, 255, (count, 3)).tolist()
        factor = enlargement(*self.size)
        image = mmcv.imresize(self.image, (self.size[1] * factor, self.size[0] * factor))
        labels = torch.as_tensor(self.label_map.repeat(factor, 0).repeat(factor, 1))
        sample = SegDataSample(pred_sem_seg=PixelData(data=labels[None]))
        visualizer.add_datasample('', image, sample, draw_gt=False)

    def summary(self) -> str:
        """Shares of the largest classes."""
        labels, counts = np.unique(self.label_map, return_counts=True)
        shares = counts / self.label_map.size
        order = np.argsort(-shares, kind='stable')
        return printable(some([f'{shares[i]:.0%} {self.name_of(labels[i])}' for i in order]))


@dataclass(repr=False, eq=False)
class Classification(Prediction):
    """A class for the whole image.

    Attributes:
        scores: (number of classes,), 0 to 1.
        label: Number of the likeliest class.
    """

    scores: np.ndarray
    label: int

    @property
    def name(self) -> str:
        """Name of the likeliest class."""
        return self.name_of(self.label)

    def _draw(self, visualizer: Any, score_thr: float) -> None:
        from mmpretrain.structures import DataSample

        sample = DataSample().set_pred_score(torch.as_tensor(self.scores))
        sample.set_pred_label(self.label)
        room = room_for_text(*self.size)
        visualizer.visualize_cls(self.image, sample, draw_gt=False, **room)

    def summary(self) -> str:
        """The likeliest class and its score."""
        return f'{printable(self.name)} {self.scores[self.label]:.2f}'


class Predictions(List[Prediction]):
    """What a model says of several images, in their order."""

    def draw(self, out_dir: Path, score_thr: float = 0.3) -> List[str]:
        """Draw each into a file of its own.

        Args:
            out_dir: The folder; it is made. Files have the names of the images, those of arrays
                their number in this list and .png.
            score_thr: Least score of a box that is drawn.

        Returns:
            Paths of the files.

        Raises:
            UserError: If two images have the same name, an image would be replaced, or a file
                cannot be written.
        """
        names = [osp.basename(p.path) if p.path else f'{i}.png' for i, p in enumerate(self)]
        twice = next((name for name, count in Counter(names).items() if count > 1), None)
        if twice:
            raise UserError(f'two images are called {twice}: they would overwrite each other')
        make_folder(out_dir)
        paths = [osp.join(out_dir, name) for name in names]
        for path in paths:
            check_output(path, [p.path for p in self if p.path])
        for prediction, path in zip(self, paths):
            prediction.draw(path, score_thr)
        return paths

    def to_coco(self, annotations: Optional[Path] = None) -> List[dict]:
        """Return COCO's results of all images, as ``COCO.loadRes`` of pycocotools takes them.

        Args:
            annotations: COCO's annotation file of these images: ids of images are looked up there
                by the names of their files, ids of classes by their names. Without it an image has
                the number in its name as id ('000000000139.jpg': 139), or its name without ending,
                or its number in this list if it was an array; classes are counted from 1 (those of
                COCO itself are not: name its file).

        Raises:
            UserError: If the model finds no objects, or an image or class is not in the file.
        """
        for prediction in self:
            if not isinstance(prediction, Detections):
                kind = type(prediction).__name__
                raise UserError(f'to_coco: a {kind} has no boxes: load the config of a detector')
        ids = CocoIds(annotations)
        results: List[dict] = []
        for i, p in enumerate(self):
            image = ids.image(p.path, i)
            results += p.to_coco(image, ids.categories(p.classes))  # type: ignore[attr-defined]
        return results


class CocoIds:
    """Ids by which COCO's results name images and classes.

    Args:
        annotations: As :meth:`Predictions.to_coco` takes it.

    Raises:
        UserError: If it is no such file.
    """

    def __init__(self, annotations: Optional[Path] = None) -> None:
        self.file = annotations
        if annotations is None:
            return
        try:
            with open(annotations, encoding='utf-8') as file:
                content = json.load(file)
            self._images = {osp.basename(row['file_name']): row['id'] for row in content['images']}
            self._categories = {row['name']: row['id'] for row in content['categories']}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{annotations} is no file of COCO's annotations ({described(error)}): name one"
            ) from error

    def image(self, path: Optional[str], index: int = 0) -> Union[int, str]:
        """Id of an image.

        Args:
            path: Its path; None for an array.
            index: Id of an array.

        Raises:
            UserError: If it is not in the file.
        """
        name = osp.basename(path or 'an array')
        if self.file is not None:
            return self._found(self._images, name, 'image')
        stem = osp.splitext(name)[0]
        return index if path is None else int(stem) if stem.isdecimal() else stem

    def categories(self, classes: Sequence[str]) -> Optional[List[int]]:
        """Ids of classes by their number; None where there is no file.

        Raises:
            UserError: If one is not in the file.
        """
        if self.file is None:
            return None
        return [self._found(self._categories, name, 'class') for name in classes]

    def _found(self, ids: Dict[str, int], name: str, kind: str) -> int:
        if name not in ids:
            raise UserError(
                f'to_coco: {self.file} has no {kind} {name}: name the file of these images'
            )
        return ids[name]
