"""What this package's checks and hooks cost a training, over mmengine's own runner."""

from __future__ import annotations

import copy
import functools
import itertools
import random
import statistics
import tempfile
import time
from typing import Any, Callable

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from gcvit_mm.cli.runner import MMENGINE_HOOKS, build_runner
from gcvit_mm.datacheck.folders import check_data
from gcvit_mm.datacheck.pipeline import check_dataset

from . import measure as benchmark

BAR = 1.02
NEVER = 1 << 30


class Enough(Exception):
    """Ends a training after the steps that were asked for."""


def measure_overhead(cfg: Config, rounds: int, warmups: int) -> list[dict]:
    """Load pictures, and train, with this package's checks and without.

    Pictures go through both pipelines by turns, with the same random numbers. Of a step the time
    inside of hooks is taken, so that what the arithmetic takes more or less counts for neither.

    Args:
        cfg: A config whose data is there.
        rounds: Steps, and batches of pictures, that count.
        warmups: Those before them.

    Returns:
        Two rows: ``name``, ``plain`` and ``ours`` (images/s), ``ratio`` (of their times), ``bar``
        and ``passed``.

    Raises:
        UserError: If the data is not there.
    """
    check_data(cfg, 'train_dataloader')
    pictures = compare_pipelines(cfg, rounds, warmups)
    plain = train(plain_config(cfg), Runner.from_cfg, rounds, warmups)
    ours = train(cfg, build_runner, rounds, warmups)
    step = statistics.median(plain['step'])
    extra = statistics.median(ours['hooks']) - statistics.median(plain['hooks'])
    steps = step, step + extra
    each = 1, cfg.train_dataloader.batch_size  # pictures in what was timed
    return [
        dict(
            name=name,
            plain=count / without,
            ours=count / guarded,
            ratio=guarded / without,
            bar=BAR,
            passed=guarded / without <= BAR,
        )
        for name, (without, guarded), count in zip(
            ('data pipeline', 'training step'), (pictures, steps), each
        )
    ]


def compare_pipelines(cfg: Config, rounds: int, warmups: int) -> tuple[float, float]:
    """Median seconds of a picture in mmengine's pipeline, and in the checked one."""
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    loader = dict(cfg.train_dataloader, num_workers=0, persistent_workers=False)
    datasets = {
        name: Runner.build_dataloader(copy.deepcopy(loader), seed=0).dataset
        for name in ('plain', 'checked')
    }
    check_dataset(datasets['checked'], training=True)
    numbers = {name: itertools.count() for name in datasets}

    def take(name: str) -> None:
        number = next(numbers[name])
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)
        datasets[name][number % len(datasets[name])]

    passes = {name: functools.partial(take, name) for name in datasets}
    count = cfg.train_dataloader.batch_size
    times = benchmark.interleave(passes, rounds * count, warmups * count, 'cpu')
    return statistics.median(times['plain']), statistics.median(times['checked'])


def plain_config(cfg: Config) -> Config:
    """A config without the hooks of this package."""
    cfg = copy.deepcopy(cfg)
    hooks = {name: cfg.default_hooks[name] for name in cfg.default_hooks if name in MMENGINE_HOOKS}
    hooks['checkpoint'] = dict(type='CheckpointHook')
    cfg.default_hooks = ConfigDict(hooks)
    return cfg


def train(
    cfg: Config, build: Callable[[Config], Any], steps: int, warmups: int
) -> dict[str, list[float]]:
    """Train for a few steps from random weights.

    Returns:
        Seconds of each step, ``step``, and of those inside of hooks, ``hooks``.
    """
    cfg = copy.deepcopy(cfg)
    cfg.model.backbone.pop('init_cfg', None)
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    for part in ('dataloader', 'cfg', 'evaluator'):
        cfg.pop(f'val_{part}', None)
        cfg.pop(f'test_{part}', None)
    cfg.default_hooks.checkpoint.interval = NEVER
    cfg.update(log_level='ERROR', load_from=None, resume=False, launcher='none')
    found: dict[str, list[float]] = dict(step=[], hooks=[])
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        cfg.visualizer.update(vis_backends=None, name=folder)  # of its own, not of an earlier run
        runner = build(cfg)
        call, now = runner.call_hook, dict(start=0.0, hooks=0.0)

        def timed_call(name: str, **options: Any) -> None:
            before = time.perf_counter()
            if name == 'before_train_iter':
                now.update(start=before, hooks=0.0)
            call(name, **options)
            after = time.perf_counter()
            now['hooks'] += after - before
            if name == 'after_train_iter':
                found['step'].append(after - now['start'])
                found['hooks'].append(now['hooks'])
                if len(found['step']) == steps + warmups:
                    raise Enough

        runner.call_hook = timed_call
        try:
            runner.train()
        except Enough:
            pass
    return {key: values[warmups:] for key, values in found.items()}
