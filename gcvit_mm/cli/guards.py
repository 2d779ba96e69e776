"""Bad input that shows only when a model is built or loaded: it ends in one line that names it."""

import inspect
import os.path as osp
from functools import partial
from typing import Any, Iterator, List, Tuple, Union

from mmengine.config import Config
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from mmengine.runner import CheckpointLoader, FlexibleRunner, Runner
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from ..backbones.base import BaseBackbone
from ..checkpoints import check_whole_model
from ..datacheck.pipeline import build_dataloader
from ..datacheck.report import some
from ..engine.saving import SafeCheckpointHook
from ..errors import UserError
from ..messages import nearest

# Methods of mmpretrain that hand their backbone a mask of the image.
MASKING = (
    'BEiT',
    'CAE',
    'EVA',
    'MAE',
    'MFF',
    'MILAN',
    'MaskFeat',
    'MixMIM',
    'SimMIM',
    'iTPN',
)


def check_channels(cfg: Config, model: Any) -> None:
    """Check that necks and heads take what a backbone of this package gives, and only images go in.

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
    if type(model).__name__ in MASKING:
        raise UserError(
            f'model.type is {type(model).__name__}, which hands its backbone a mask: '
            f'{type(backbone).__name__} takes none: learn from whole images, e.g. with MoCo'
        )
    mean = (node.get('data_preprocessor') or {}).get('mean')
    if mean is not None and len(mean) == 3 != backbone.in_channels:
        raise UserError(
            f'model.backbone.in_channels is {backbone.in_channels}, but '
            'model.data_preprocessor.mean has 3 values: give both as many as images have channels'
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


class CheckLoaded(Hook):
    """Refuses checkpoints of another model, which mmengine would pass over."""

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the weights of a checkpoint with those of the model.

        Raises:
            CheckpointError: If they do not fit: all of them when resuming, some for ``load_from``.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        check_whole_model(model, checkpoint, str(runner._load_from), runner._resume)


def guard_strategy(runner: FlexibleRunner) -> None:
    """Put into a strategy the checks that need its model, which it builds and wraps itself.

    A file that ``load_from`` names is loaded before it is wrapped, whoever wrote it; what
    strategies load afterwards is only what they wrote, and whether it fits they do not say. What
    to resume from is chosen before they load it.
    """
    strategy, path = runner.strategy, None if runner._resume else runner._load_from
    saving = [hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook)]
    initialise = strategy._init_model_weights
    # a folder is the strategy's own; a model that has no weights before it is wrapped takes none
    if path and (osp.isdir(path) or getattr(strategy, 'skip_init_weights', False)):
        path = None
    elif path:
        runner._load_from = None

    def initialise_and_load(model: nn.Module) -> nn.Module:
        check_channels(runner.cfg, model)
        model = initialise(model)
        for hook in saving:
            hook.choose(runner, model)
        if path:
            content = CheckpointLoader.load_checkpoint(path)
            check_whole_model(model, content, path, resume=False)
            load_state_dict(model, content['state_dict'], strict=False, logger=runner.logger)
        return model

    strategy._init_model_weights = initialise_and_load


def check_optimizer(wrapper: dict) -> None:
    """Check that an optimizer and what wraps it are known.

    Raises:
        UserError: If one is not.
    """
    optimizers = {
        'optimizer.type': ((wrapper.get('optimizer') or {}).get('type'), OPTIMIZERS),
        'type': (wrapper.get('type', 'OptimWrapper'), OPTIM_WRAPPERS),
    }
    for key, (name, registry) in optimizers.items():
        if not isinstance(name, str) or registry.get(name) is not None:
            continue
        close = nearest(name, registry)
        fix = f'did you mean {close}?' if close else 'correct it, or register it'
        what = 'is no optimizer'
        if registry is OPTIM_WRAPPERS:
            what = 'wraps no optimizer'
            optimizer = name if OPTIMIZERS.get(name) else nearest(name, OPTIMIZERS)
            if optimizer.lower() == name.lower():
                fix = f'set optim_wrapper.optimizer.type={optimizer}'
        raise UserError(f'optim_wrapper.{key} is {name}, which {what}: {fix}')


def guard(runner: Union[Runner, FlexibleRunner]) -> None:
    """Put the checks of this module into a runner.

    Raises:
        UserError: If its optimizer or a setting of its checkpoints is unknown, or its channels do
            not fit.
    """
    check_channels(runner.cfg, runner.model)
    check_optimizer(runner.cfg.get('optim_wrapper') or {})
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
