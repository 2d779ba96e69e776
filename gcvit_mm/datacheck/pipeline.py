"""Images and labels that turn out bad while they are read: the run ends naming the file."""

import multiprocessing
import os.path as osp
from typing import Any, Callable, Iterator, Optional

import numpy as np
from mmengine.dataset import Compose
from torch.utils.data import DataLoader

from ..errors import UserError
from ..messages import UNKNOWN, described, nearest_argument, what_was_built
from ..processes import WorkerInit, hold_signals, note_file
from .coco import NO_MASK, mask_flaw
from .report import some

# Seconds that a step waits for its batch, unless the config says.
PATIENCE = 900


class CheckedPipeline(Compose):
    """A pipeline that names the file it fails at, and compares what it has read.

    Args:
        pipeline: The pipeline to run.
        classes: Number of classes; None where it is not known.
        ignore: Label of pixels that do not count.
    """

    def __init__(self, pipeline: Compose, classes: Optional[int] = None, ignore: int = 255) -> None:
        super().__init__(pipeline.transforms)
        self.classes = classes
        self.ignore = ignore

    def __call__(self, data: dict) -> Optional[dict]:
        """Run the pipeline.

        Raises:
            UserError: If a step fails, if image and annotation have different sizes, or if a
                label is none of the classes.
        """
        image = str(data.get('img_path', 'unknown image'))
        labels = data.get('seg_map_path')
        label = data.get('gt_label')
        if self.classes and isinstance(label, (int, np.integer)):
            if not 0 <= label < self.classes:
                raise UserError(
                    f'{image}: its label is {label}, but there are {self.classes} classes: '
                    'correct the list of images, or name all classes'
                )
        note_file(image)
        if osp.exists(image) and not osp.isfile(image):  # reading a pipe would never end
            raise UserError(f'{image} is no file: replace it, or take it out of the data')
        for instance in data.get('instances') or ():
            flaw = instance.get('mask') and mask_flaw(
                instance['mask'], data.get('width', 0), data.get('height', 0)
            )
            if flaw and NO_MASK not in flaw:  # mmdet passes over those
                raise UserError(f'{image}: {flaw}: correct its annotation, or take it out')
        seen: set = set()
        result: Optional[dict] = data
        for step in self.transforms:
            try:
                result = step(result)
            except UserError:
                raise
            except Exception as error:  # whatever a step may raise
                raise step_failed(step, image, labels, error) from error
            if result is None:
                return None
            copy_thin(result)
            new = {'img', 'gt_seg_map'} & {*result} - seen
            if new:
                seen |= new
                self.compare(result, new, image, labels)
        return result

    def compare(self, data: dict, new: set, image: str, labels: Any) -> None:
        """Compare what has just been read with what is known about it."""
        size = getattr(data.get('img'), 'shape', ())[:2]
        stated = (data.get('height'), data.get('width'))
        if 'img' in new and size and None not in stated and size != stated:
            raise UserError(
                f'{image} has {size[1]} x {size[0]} pixels, its annotation {stated[1]} x '
                f'{stated[0]}: correct the annotation, or replace the image'
            )
        array = data.get('gt_seg_map')
        if 'gt_seg_map' not in new or not isinstance(array, np.ndarray) or not labels:
            return
        original = tuple(data.get('ori_shape') or array.shape)[:2]
        if array.ndim < 2 and array.size == np.prod(original):
            # mmseg drops sides of one pixel
            array = data['gt_seg_map'] = array.reshape(original)
        if array.ndim != 2:
            raise UserError(
                f'{labels} has colours: a label map has one byte a pixel, the number of its class'
            )
        if array.shape != original:
            raise UserError(
                f'{labels} has {array.shape[1]} x {array.shape[0]} pixels, its image '
                f'{original[1]} x {original[0]}: draw it in the size of {image}'
            )
        if self.classes:
            beyond = array[((array >= self.classes) & (array != self.ignore)) | (array < 0)]
            if beyond.size:
                raise UserError(
                    f'{labels} holds {some(np.unique(beyond))} as read (with reduce_zero_label, '
                    f'if set), beyond {self.classes} classes and {self.ignore} (ignored): mark '
                    f'such pixels {self.ignore}, or add classes'
                )


def copy_thin(data: dict) -> None:
    """Copy images of one row or column, which torch refuses once they are flipped."""
    for key in ('img', 'gt_seg_map'):
        array = data.get(key)
        if isinstance(array, np.ndarray) and 1 in array.shape[:2]:
            data[key] = array.copy()


def step_failed(step: Any, image: str, labels: Any, error: Exception) -> UserError:
    """What to say when a step of a pipeline fails."""
    name = type(step).__name__
    if name == 'LoadImageFromFile':
        return UserError(
            f'image {image} cannot be read: it is missing, no image, or damaged '
            f'({described(error)}): replace it, or take it out of the data'
        )
    file = labels if labels and name == 'LoadAnnotations' else image
    return UserError(
        f'{file}: {name} fails ({described(error)}): fix the file or its annotation, take it out '
        'of the data, or correct the pipeline'
    )


def base_datasets(dataset: Any) -> Iterator[Any]:
    """The data sets inside whatever wraps them."""
    inner = [getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or [])]
    inner = [part for part in inner if part is not None]
    for part in inner:
        yield from base_datasets(part)
    if not inner:
        yield dataset


def check_dataset(dataset: Any, training: bool) -> None:
    """Let the pipelines of a data set name their files; look whether there is anything in it.

    Args:
        dataset: A data set, read.
        training: Whether a model shall learn from it.

    Raises:
        UserError: If it is empty, or has no object to learn from.
    """
    for part in base_datasets(dataset):
        file = getattr(part, 'ann_file', '') or getattr(part, 'data_root', '') or type(part)
        if not len(part):
            raise UserError(empty(file))
        if isinstance(getattr(part, 'pipeline', None), Compose):
            classes = (getattr(part, 'metainfo', None) or {}).get('classes')
            ignore = getattr(part, 'ignore_index', 255)
            part.pipeline = CheckedPipeline(part.pipeline, len(classes or ()) or None, ignore)
        if (
            training
            and hasattr(part, 'COCOAPI')
            and not any(
                not instance.get('ignore_flag')
                for i in range(len(part))
                for instance in part.get_data_info(i).get('instances', [])
            )
        ):
            raise UserError(
                f'{file}: no object to learn from: all are crowds, outside of their images, or '
                'of unknown ids (python -m gcvit_mm check-data says which): correct the file'
            )


def empty(file: Any) -> str:
    """What to say of a data set without images."""
    return (
        f'{file}: no image with an object is left: check its ids and classes '
        '(python -m gcvit_mm check-data), and filter_cfg of the data set'
    )


def build_dataloader(build: Callable[..., Any], training: Any, cfg: Any, **options: Any) -> Any:
    """Build a data loader that names bad data, and whose workers may be none.

    Args:
        build: Builds it.
        training: The config of the data loader for training.
        cfg: The config of this one.
        options: Further arguments of ``build``.

    Raises:
        UserError: If it cannot be built, or there is nothing in its data.
    """
    if not isinstance(cfg, dict):
        return build(cfg, **options)
    trains = cfg is training or cfg == training
    if cfg.get('num_workers') == 0:
        cfg = {**cfg, 'persistent_workers': False, 'prefetch_factor': None}
    dataset: Any = cfg.get('dataset')
    dataset = dataset if isinstance(dataset, dict) else {}
    name = dataset.get('ann_file') or dataset.get('type', 'data set')
    try:
        loader = build(cfg, **options)
    except UserError:
        raise
    except Exception as error:  # whatever a data set of the config's choice may raise
        if 'at least one array to concatenate' in str(error):  # mmengine has nothing to keep
            raise UserError(empty(name)) from error
        unknown, built = UNKNOWN.search(str(error)), what_was_built(error)
        if unknown and unknown[1] in cfg and not built:
            close = nearest_argument(unknown[1], DataLoader)
            raise UserError(
                f'the data loader of {name} has no argument {unknown[1]}: '
                f'{f"did you mean {close}?" if close else "take it out"}'
            ) from error
        built = built or 'its data loader'
        raise UserError(
            f'{name}: {built} cannot be built: {described(error)}: correct the file '
            '(python -m gcvit_mm check-data says more), or the config'
        ) from error
    check_dataset(loader.dataset, trains)
    context = loader.multiprocessing_context or multiprocessing
    loader.worker_init_fn = WorkerInit(loader.worker_init_fn, loader.num_workers, context)
    loader._get_iterator = hold_signals(loader._get_iterator)
    if loader.num_workers and not loader.timeout:
        loader.timeout = PATIENCE
    return loader
