"""Building all that a run needs, and running nothing: what is wrong shows before it starts."""

import contextlib
import copy
import io
import tempfile
from typing import Any, Optional

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn

from ..planning.complexity import count_parameters
from .guards import guard


class Rehearsal(Runner):
    """mmengine's runner with a model that has no weights and goes to no device."""

    def build_model(self, model: Any) -> nn.Module:
        """Build a model on the meta device."""
        with torch.device('meta'):
            return super().build_model(model)

    def wrap_model(self, model_wrapper_cfg: Optional[dict], model: nn.Module) -> nn.Module:
        """Leave a model as it is."""
        return model


def rehearse(cfg: Config, training: bool = False) -> str:
    """Build model, data loaders and metrics of a run, and to train optimizer and schedule.

    Nothing is downloaded, and nothing written into its work dir.

    Args:
        cfg: The config, after :func:`prepare`.
        training: Whether it is to train, and not to test.

    Returns:
        One line: parameters, classes, images, iterations, where results go.

    Raises:
        UserError: If a part does not fit; so does whatever a part raises that cannot be built.
    """
    rehearsed = copy.deepcopy(cfg)
    for key in ('runner_type', 'strategy'):  # they divide a model for its training
        rehearsed.pop(key, None)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        rehearsed.merge_from_dict(
            dict(work_dir=folder, launcher='none', load_from=None, resume=False, log_level='ERROR')
        )
        runner = Rehearsal.from_cfg(rehearsed)
        guard(runner)
        millions = count_parameters(runner.model) / 1e6
        parts = [f'{type(runner.model).__name__}, {millions:.2f} M parameters']
        if training:
            parts += rehearse_training(runner)
        if training and runner.cfg.get('val_cfg'):
            parts.append(f'{len(runner.val_loop.dataloader.dataset)} images to evaluate on')
        if not training:
            dataset = runner.test_loop.dataloader.dataset
            parts.append(f'{known_classes(dataset)}{len(dataset)} images to test on')
    return f'ready: {"; ".join(parts)}; results go to {cfg.work_dir}'


def rehearse_training(runner: Runner) -> list:
    """Build what only training needs; return what to say of it."""
    loop = runner.train_loop
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    if not isinstance(wrapper, OptimWrapper):  # DeepSpeed's, to which this runner has no schedule
        wrapper = OptimWrapper(wrapper.optimizer)
    runner.optim_wrapper = wrapper
    if runner.param_schedulers is not None:
        runner.build_param_scheduler(runner.param_schedulers)
    data, size = loop.dataloader.dataset, runner.cfg.train_dataloader.get('batch_size')
    epochs = '' if isinstance(loop, IterBasedTrainLoop) else f'{loop.max_epochs} epochs, '
    images = f'{known_classes(data)}{len(data)} images to train on'
    return [images, f'{epochs}{loop.max_iters} iterations of {size} images a process']


def known_classes(dataset: Any) -> str:
    """How many classes a data set has, where it says so."""
    classes = getattr(dataset, 'metainfo', {}).get('classes')
    return f'{len(classes)} classes; ' if classes else ''
