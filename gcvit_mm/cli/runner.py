"""Building what a config describes."""

import sys
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import init_dist, is_main_process
from mmengine.registry import MODELS, RUNNERS, init_default_scope
from mmengine.runner import FlexibleRunner, Runner

from ..channels_last import go_channels_last
from ..checkpoints import read_safely
from ..engine.resuming import restart_store, restarts
from .devices import init_gloo
from .guards import check_channels, guard
from .terminal import Brief, ProgressBar, RunReport

# The default hooks that mmengine's runner adds by itself.
MMENGINE_HOOKS = (
    'runtime_info',
    'timer',
    'sampler_seed',
    'logger',
    'param_scheduler',
    'checkpoint',
)


class ChannelsLast:
    """Part of a runner whose detectors compute channels-last on CPUs. mmengine's strategies build
    models themselves: theirs stay as they are."""

    def build_model(self, *args: Any, **kwargs: Any) -> Any:
        """Build a model, before it is wrapped."""
        model = super().build_model(*args, **kwargs)  # type: ignore[misc]
        if not torch.cuda.is_available():
            go_channels_last(model)
        return model


def build_runner(cfg: Config) -> Runner:
    """Build mmengine's runner, joining the process group first where there is no GPU."""
    if cfg.launcher != 'none' and not torch.cuda.is_available():
        init_gloo(cfg.launcher)
    elif cfg.launcher == 'pytorch' and restarts():
        init_dist('pytorch', **cfg.env_cfg.dist_cfg, **restart_store())
    # NAME=None takes a hook away; of those that are not its own, mmengine does not know that
    for name, hook in list((cfg.get('default_hooks') or {}).items()):
        if hook is None and name not in MMENGINE_HOOKS:
            cfg.default_hooks.pop(name)
    read_safely(bool(cfg.get('trust_checkpoint')))
    # configs/strategies name a runner of their own
    kind: Any = RUNNERS.get(cfg.get('runner_type', 'Runner'))
    if issubclass(kind, (Runner, FlexibleRunner)):
        kind = type(kind.__name__, (Brief, ChannelsLast, kind), {})
    runner = kind.from_cfg(cfg)
    if isinstance(runner, (Runner, FlexibleRunner)):
        guard(runner)
        runner.register_hook(RunReport())
        if is_main_process() and sys.stdout and sys.stdout.isatty():  # it may be closed
            runner.register_hook(ProgressBar())
    return runner


def build_model(cfg: Config, device: str = 'cpu') -> Any:
    """Build the model of a config without a runner, on the CPU, for the device where it will run.

    Raises:
        UserError: If the channels of its parts do not fit each other.
    """
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    check_channels(cfg, model)
    if device == 'cpu':
        go_channels_last(model)
    return model
