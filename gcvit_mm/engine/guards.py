"""Bad input that shows only when something is built or read: it ends in one line that names it."""

import inspect
import os.path as osp
from functools import partial
from typing import Any, Callable, Iterator, List, Optional, Tuple, Union

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import OPTIMIZERS
from mmengine.runner import CheckpointLoader, FlexibleRunner, Runner
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from ..backbones.base import BaseBackbone
from ..checkpoints import check_whole_model, plain_weights, read_checkpoint
from ..errors import UserError
from .data_report import some
from .explain import described, nearest, what_was_built


# ------------------------------------------------------------------ pictures and labels
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
            UserError: If a step fails, if picture and annotation have different sizes, or if a
                label is none of the classes.
        """
        picture = data.get('img_path', 'unknown picture')
        labels = data.get('seg_map_path')
        label = data.get('gt_label')
        if self.classes and isinstance(label, (int, np.integer)):
            if not 0 <= label < self.classes:
                raise UserError(
                    f'{picture}: its label is {label}, but there are {self.classes} classes: '
                    'correct the list of pictures, or name all classes'
                )
        seen: set = set()
        result: Optional[dict] = data
        for step in self.transforms:
            try:
                result = step(result)
            except UserError:
                raise
            except Exception as error:  # whatever a step may raise
                raise step_failed(step, picture, labels, error) from error
            if result is None:
                return None
            copy_thin(result)
            new = {'img', 'gt_seg_map'} & {*result} - seen
            if new:
                seen |= new
                self.compare(result, new, picture, labels)
        return result

    def compare(self, data: dict, new: set, picture: str, labels: Any) -> None:
        """Compare what has just been read with what is known about it."""
        size = getattr(data.get('img'), 'shape', ())[:2]
        stated = (data.get('height'), data.get('width'))
        if 'img' in new and size and None not in stated and size != stated:
            raise UserError(
                f'{picture} has {size[1]} x {size[0]} pixels, its annotation {stated[1]} x '
                f'{stated[0]}: correct the annotation, or replace the picture'
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
                f'{labels} has {array.shape[1]} x {array.shape[0]} pixels, its picture '
                f'{original[1]} x {original[0]}: draw it in the size of {picture}'
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
    """Copy pictures of one row or column, which torch refuses once they are flipped."""
    for key in ('img', 'gt_seg_map'):
        array = data.get(key)
        if isinstance(array, np.ndarray) and 1 in array.shape[:2]:
            data[key] = array.copy()


def step_failed(step: Any, picture: str, labels: Any, error: Exception) -> UserError:
    """What to say when a step of a pipeline fails."""
    name = type(step).__name__
    if name == 'LoadImageFromFile':
        return UserError(
            f'image {picture} cannot be read: it is missing, no picture, or damaged '
            f'({described(error)}): replace it, or take it out of the data'
        )
    file = labels if labels and name == 'LoadAnnotations' else picture
    return UserError(
        f'{file}: {name} fails ({described(error)}): mend the file or its annotation, take it out '
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
                f'{file}: no object to learn from: all are crowds, outside of their pictures, or '
                'of unknown ids (python -m gcvit_mm check-data says which): correct the file'
            )


def empty(file: Any) -> str:
    """What to say of a data set without pictures."""
    return (
        f'{file}: no picture with an object is left: check its ids and classes '
        '(python -m gcvit_mm check-data), and filter_cfg of the data set'
    )


def build_dataloader(build: Callable[..., Any], training: Any, cfg: Any, **options: Any) -> Any:
    """Build a data loader that names bad data.

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
        built = what_was_built(error) or 'its data loader'
        raise UserError(
            f'{name}: {built} cannot be built: {described(error)}: correct the file '
            '(python -m gcvit_mm check-data says more), or the config'
        ) from error
    check_dataset(loader.dataset, cfg is training or cfg == training)
    return loader


# ------------------------------------------------------------------ models
def check_channels(cfg: Config, model: Any) -> None:
    """Check that necks and heads take what a backbone of this package gives.

    Args:
        cfg: The config.
        model: The model, built.

    Raises:
        UserError: If they do not; the message names the key and its value.
    """
    node = cfg.model
    while 'module' in node:  # test-time augmentation
        node = node['module']
    while hasattr(model, 'module'):
        model = model.module
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, BaseBackbone):
        return
    mean = (node.get('data_preprocessor') or {}).get('mean')
    if mean is not None and len(mean) == 3 != backbone.in_channels:
        raise UserError(
            f'model.backbone.in_channels is {backbone.in_channels}, but '
            'model.data_preprocessor.mean has 3 values: give both as many as pictures have channels'
        )
    given = list(backbone.out_channels)
    neck = node.get('neck')
    if isinstance(neck, dict) and isinstance(neck.get('in_channels'), (list, tuple)):
        parts: List[Tuple[str, Any, Any]] = [('model.neck', neck, given)]
    elif not neck and cfg.get('default_scope') == 'mmseg':
        parts = list(_heads(node, given))
    elif 'head' in node and (neck or {}).get('type') in (None, 'GlobalAveragePooling'):
        parts = [('model.head', node['head'], given[-1])]
    else:
        return
    for path, part, wanted in parts:
        stated = (part or {}).get('in_channels', wanted)
        if isinstance(stated, tuple):
            stated = list(stated)
        if stated != wanted:
            raise UserError(
                f'{path}.in_channels is {stated}, but model.backbone gives {wanted}: set '
                f'{path}.in_channels={wanted}'
            )


def _heads(node: dict, given: List[int]) -> Iterator[Tuple[str, dict, Any]]:
    """Heads of a segmentor, and the channels that each takes from the backbone."""
    for name in ('decode_head', 'auxiliary_head'):
        heads = node.get(name)
        for i, head in enumerate(heads if isinstance(heads, (list, tuple)) else [heads]):
            path = f'model.{name}.{i}' if isinstance(heads, (list, tuple)) else f'model.{name}'
            if not isinstance(head, dict):
                continue
            index = head.get('in_index', -1)
            indices = list(index) if isinstance(index, (list, tuple)) else [index]
            if any(not -len(given) <= k < len(given) for k in indices):
                raise UserError(
                    f'{path}.in_index is {index}, but model.backbone gives {len(given)} maps: '
                    f'set {path}.in_index within 0..{len(given) - 1}'
                )
            chosen = [given[k] for k in indices]
            yield path, head, chosen if isinstance(index, (list, tuple)) else chosen[0]


# ------------------------------------------------------------------ checkpoints
class CheckLoaded(Hook):
    """Refuses checkpoints of another model, which mmengine would pass over."""

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the weights of a checkpoint with those of the model.

        Raises:
            CheckpointError: If they do not fit: all of them when resuming, some for ``load_from``.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        check_whole_model(model, checkpoint, str(runner._load_from), runner._resume)


def read_safely(trust: bool) -> None:
    """Let mmengine read checkpoints without running what is in them.

    Its own loader falls back to running it.

    Args:
        trust: Read all the same files that hold Python objects.
    """

    def read(filename: str, map_location: Any = None, **kwargs: Any) -> dict:
        content = read_checkpoint(filename, trust)
        if 'state_dict' not in content:  # mmengine looks for no other name, and loads nothing
            content['state_dict'] = plain_weights(content, filename)
        return content

    CheckpointLoader.register_scheme(prefixes=['', 'http://', 'https://'], loader=read, force=True)


def guard_strategy(runner: FlexibleRunner) -> None:
    """Put into a strategy the checks that need its model, which it builds and wraps itself.

    A file that ``load_from`` names is loaded before it is wrapped, whoever wrote it; what
    strategies load afterwards is only what they wrote, and whether it fits they do not say.
    """
    strategy, path = runner.strategy, runner._load_from
    initialise = strategy._init_model_weights
    # a folder is the strategy's own; a model that has no weights before it is wrapped takes none
    if path and (osp.isdir(path) or getattr(strategy, 'skip_init_weights', False)):
        path = None
    elif path:
        runner._load_from = None

    def initialise_and_load(model: nn.Module) -> nn.Module:
        check_channels(runner.cfg, model)
        model = initialise(model)
        if path:
            content = CheckpointLoader.load_checkpoint(path)
            check_whole_model(model, content, path, resume=False)
            load_state_dict(model, content['state_dict'], strict=False, logger=runner.logger)
        return model

    strategy._init_model_weights = initialise_and_load


# ------------------------------------------------------------------ all of it
def guard(runner: Union[Runner, FlexibleRunner]) -> None:
    """Put the checks of this module into a runner.

    Raises:
        UserError: If its optimizer or a setting of its checkpoints is unknown, or its channels do
            not fit.
    """
    check_channels(runner.cfg, runner.model)
    wrapper = runner.cfg.get('optim_wrapper') or {}
    name = (wrapper.get('optimizer') or {}).get('type')
    if isinstance(name, str) and OPTIMIZERS.get(name) is None:
        close = nearest(name, OPTIMIZERS)
        raise UserError(
            f'optim_wrapper.optimizer.type is {name}, which is no optimizer: '
            f'{f"did you mean {close}?" if close else "correct it, or register it"}'
        )
    known = inspect.signature(runner.save_checkpoint).parameters
    for hook in runner.hooks:
        unknown = [k for k in getattr(hook, 'args', {}) if k not in known]
        if isinstance(hook, CheckpointHook) and unknown:
            raise UserError(
                f'default_hooks.checkpoint: {type(hook).__name__} has no argument {some(unknown)}: '
                'take it out, or correct its name'
            )
    training = runner.cfg.get('train_dataloader')
    runner.build_dataloader = partial(build_dataloader, runner.build_dataloader, training)
    if isinstance(runner, FlexibleRunner):
        guard_strategy(runner)
    else:
        runner.register_hook(CheckLoaded())
