"""Runs that end before their time, and a module that a config imports."""

import os
import signal
import time

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS, MODELS
from mmengine.runner import Runner
from torch import nn
from yapf.yapflib import yapf_api

import gcvit_mm  # noqa: F401  the hooks, by their names
from support.small_run import Net, Noise

STEPS = 40
# It takes half a second to lay out a config, for every checkpoint.
yapf_api.FormatCode = lambda code, **options: (code, True)


class HeavyNet(Net):
    """A checkpoint of 24 MB, which takes a while to write."""

    def __init__(self):
        super().__init__()
        self.ballast = nn.Parameter(torch.randn(2_000_000))

    def forward(self, inputs, data_samples=None, mode='loss'):
        loss = super().forward(inputs, data_samples, mode)['loss']
        return dict(loss=loss + self.ballast.square().mean())


@HOOKS.register_module(force=True)
class WriteLosses(Hook):
    """The first rank appends step and loss to a file, whatever becomes of its process."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if get_rank() == 0:
            with open(f'{runner.work_dir}/losses.txt', 'a') as file:
                print(runner.iter + 1, f'{outputs["loss"].item():.9f}', file=file, flush=True)
        time.sleep(0.01)


def curve(work_dir):
    """Steps and losses in the order they were trained; a last line that was cut off is dropped."""
    path = work_dir / 'losses.txt'
    text = path.read_text() if path.exists() else ''
    rows = [line.split() for line in text[: text.rfind('\n') + 1].splitlines()]
    return [(int(step), float(loss)) for step, loss in rows]


def train_heavy(work_dir, interval):
    """Train, resuming from what is there; what the processes below do."""
    torch.manual_seed(0)
    Runner(
        model=HeavyNet(),
        work_dir=work_dir,
        train_dataloader=dict(
            dataset=Noise(),
            batch_size=4,
            sampler=dict(type='InfiniteSampler'),
            collate_fn=dict(type='pseudo_collate'),
        ),
        train_cfg=dict(by_epoch=False, max_iters=STEPS),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01)),
        param_scheduler=[dict(type='LinearLR', start_factor=0.1, end=STEPS, by_epoch=False)],
        default_hooks=dict(
            checkpoint=dict(
                type='SafeCheckpointHook', interval=interval, by_epoch=False, max_keep_ckpts=2
            ),
            seeds=dict(type='SeedEveryStep'),
            logger=None,
        ),
        custom_hooks=[WriteLosses()],
        resume=True,
        randomness=dict(seed=11),
        experiment_name=f'run_{time.time_ns()}',
        log_level='WARNING',
    ).train()


MODELS.register_module('SmallNet', module=Net, force=True)
DATASETS.register_module('Noise', module=Noise, force=True)


@HOOKS.register_module(force=True)
class DiesOnce(Hook):
    """The last rank kills itself after some steps, each time but the first one excepted.

    Args:
        steps: The steps.
    """

    def __init__(self, steps):
        self.steps = steps

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        step = runner.iter + 1
        marker = f'{runner.work_dir}/died_{step}'
        last = get_rank() == get_world_size() - 1
        if last and step in self.steps and not os.path.exists(marker):
            open(marker, 'w').close()
            os.kill(os.getpid(), signal.SIGKILL)


CONFIG = """
custom_imports = dict(imports=['support.faulty_run'])
model = dict(type='SmallNet')
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    dataset=dict(type='Noise'),
    sampler=dict(type='InfiniteSampler'),
    collate_fn=dict(type='pseudo_collate'),
)
train_cfg = dict(by_epoch=False, max_iters=12)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.05))
default_hooks = dict(
    checkpoint=dict(type='SafeCheckpointHook', interval=3, by_epoch=False),
    seeds=dict(type='SeedEveryStep'),
    logger=dict(type='LoggerHook', interval=1),
    dies=dict(type='DiesOnce', steps=STEPS),
)
log_processor = dict(by_epoch=False, window_size=1, num_digits=7)
randomness = dict(seed=5)
"""


def write_config(folder, steps=()):
    """A small net that trains for 12 steps; the last rank dies once after each of ``steps``."""
    path = folder / f'small_{"_".join(map(str, steps))}.py'
    path.write_text(CONFIG.replace('STEPS', repr(list(steps))))
    return path
