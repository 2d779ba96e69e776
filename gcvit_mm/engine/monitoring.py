"""What watches a training run: its losses and its batch size."""

from typing import Any, Dict, List, Optional

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UserError
from .damage import CHANGES, start_again


@HOOKS.register_module()
class StopOnNonFinite(Hook):
    """Stops training at the first loss that is not finite, before anything is saved.

    Only losses count: under float16 the gradient scaler skips steps with infinite gradients,
    which is normal. mmengine reads every loss for its log already, so looking costs nothing more.
    """

    priority = 'ABOVE_NORMAL'

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Optional[Dict[str, Any]] = None,
    ) -> None:
        """Look at the losses of a step.

        Raises:
            UserError: If one is not finite: step, images and the last checkpoint.
        """
        for name, value in (outputs or {}).items():
            value = torch.as_tensor(value).item() if 'loss' in name else 0.0
            if np.isfinite(value):
                continue
            images = ', '.join(image_paths(data_batch)) or 'unknown'
            raise UserError(
                f'step {runner.iter + 1}: {name} is {value}; images: '
                f'{images}; {start_again(runner)} after a look at them '
                f'(python -m gcvit_mm check-data), or with {CHANGES}'
            )


def image_paths(batch: Any) -> List[str]:
    """Files of the images of a batch, as far as its data samples name them."""
    if isinstance(batch, dict):
        batch = list(batch.values())
    if isinstance(batch, (list, tuple)):
        return [path for item in batch for path in image_paths(item)]
    path = None if isinstance(batch, torch.Tensor) else getattr(batch, 'img_path', None)
    return [str(path)] if path else []


@HOOKS.register_module()
class CheckBatchSize(Hook):
    """Warns once when the learning rate is meant for another number of images a step.

    Refuses one image a step where a norm would have one value a channel.
    """

    def before_train(self, runner: Runner) -> None:
        """Look at the start of training.

        Raises:
            UserError: If one image is too few.
        """
        check_pooled(runner.cfg, runner.model, get_world_size())
        advice = batch_size_advice(runner.cfg, get_world_size())
        if advice:
            runner.logger.warning(advice)


def check_pooled(cfg: Config, model: nn.Module, processes: int = 1) -> None:
    """Check that a batch norm over a map that is pooled to 1x1, as UperNet has it, has two images.

    Args:
        cfg: The config.
        model: The model, built.
        processes: Number of processes (GPUs).

    Raises:
        UserError: If it has one.
    """
    images = (cfg.get('train_dataloader') or {}).get('batch_size')
    for name, module in model.named_modules() if images == 1 else ():
        if not (isinstance(module, nn.Sequential) and len(module) > 1):
            continue
        norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
        synced = cfg.get('sync_bn') or any(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
        pooled = getattr(module[0], 'output_size', None) in (1, (1, 1))
        if norms and pooled and not (synced and processes > 1):
            raise UserError(
                f'train_dataloader.batch_size is 1, but {name} of the model has a batch norm over '
                'a map of one pixel, which needs two images: train_dataloader.batch_size=2'
            )


def batch_size_advice(cfg: Config, processes: int = 1) -> str:
    """Compare the images of an optimizer step with those its learning rate is meant for.

    Args:
        cfg: The config; ``auto_scale_lr.base_batch_size`` is what the rate is meant for.
        processes: Number of processes (GPUs).

    Returns:
        The linear scaling to apply; empty if none is needed, or nothing is known.
    """
    scaling = cfg.get('auto_scale_lr') or {}
    batch = (cfg.get('train_dataloader') or {}).get('batch_size')
    wrapper = cfg.get('optim_wrapper') or {}
    rate = (wrapper.get('optimizer') or {}).get('lr')
    base = scaling.get('base_batch_size')
    if not (base and batch and rate):
        return ''
    accumulated = wrapper.get('accumulative_counts', 1)
    images = processes * batch * accumulated
    # mmengine's own scaling leaves accumulation out
    meant = base * accumulated if scaling.get('enable') else images
    if meant == base:
        return ''
    fix = rate * meant / base
    return (
        f'{images} images a step ({processes} x {batch} x {accumulated} accumulated), but the '
        f'learning rate {rate:g} is meant for {base}: --cfg-options '
        f'optim_wrapper.optimizer.lr={fix:.3g}'
        + ('' if scaling.get('enable') or accumulated > 1 else ', or --auto-scale-lr')
    )
