"""The hooks of a config, as mmengine's runner calls them in every step of a training."""

from __future__ import annotations

import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader


class Steps(list):
    """A data set as far as loops and hooks ask for one."""

    metainfo: dict = {}


class Hooks:
    """A runner that does not run: its hooks are called around steps that others take.

    Averaged weights, schedules of the rate of learning, logs and checks act in every step. Nothing
    is saved, and signals are not listened to.

    Args:
        cfg: A config that trains.
        model: Its model.
        wrapper: Wrapper of its optimizer.
    """

    def __init__(self, cfg: Config, model: nn.Module, wrapper: Any) -> None:
        cfg = deepcopy(cfg)
        self.folder = tempfile.TemporaryDirectory()
        name = Path(self.folder.name).name  # of no other runner
        hooks = {k: v for k, v in (cfg.get('default_hooks') or {}).items() if k != 'stop'}
        hooks['checkpoint'] = None
        self.runner = Runner(
            model,
            self.folder.name,
            train_dataloader=DataLoader(Steps(range(1000))),  # type: ignore[arg-type]
            train_cfg=cfg.train_cfg,
            optim_wrapper=wrapper,
            param_scheduler=cfg.get('param_scheduler'),
            default_hooks=hooks,
            custom_hooks=cfg.get('custom_hooks'),
            default_scope=cfg.default_scope,
            log_processor=cfg.get('log_processor'),
            log_level='ERROR',
            visualizer=dict(type='Visualizer', vis_backends=None, name=name),
            randomness=dict(seed=0),
            experiment_name=name,
        )
        runner: Any = self.runner
        runner._train_loop = runner.build_train_loop(runner._train_loop)
        runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
        for place in ('before_run', 'before_train', 'before_train_epoch'):
            runner.call_hook(place)

    def call(self, place: str, **given: Any) -> None:
        """Call the hooks before or behind a step.

        Args:
            place: 'before_train_iter' or 'after_train_iter'.
            given: ``data_batch``, and behind a step its ``outputs``.
        """
        loop: Any = self.runner.train_loop
        self.runner.call_hook(place, batch_idx=loop._iter, **given)
        if place.startswith('after'):
            loop._iter += 1
