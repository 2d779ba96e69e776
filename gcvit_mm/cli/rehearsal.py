"""Building all that a run needs, and running nothing: what is wrong shows before it starts."""

import contextlib
import copy
import io
import tempfile
from typing import Any, Optional

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn

from .guards import guard
from .terminal import described


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
        if training:
            rehearse_training(runner)
        lines = described(runner, training)
    if training:
        lines['schedule'] += ' a process'
    return f'ready: {"; ".join(lines.values())}; results go to {cfg.work_dir}'


def rehearse_training(runner: Runner) -> None:
    """Build what only training needs; schedules ask how long the loop is."""
    assert runner.train_loop is not None
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    if not isinstance(wrapper, OptimWrapper):  # DeepSpeed's, to which this runner has no schedule
        wrapper = OptimWrapper(wrapper.optimizer)
    runner.optim_wrapper = wrapper
    if runner.param_schedulers is not None:
        runner.build_param_scheduler(runner.param_schedulers)
