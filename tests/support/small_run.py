"""A net and a data set that train in a moment, with all that a checkpoint has to bring back."""

import contextlib
import random
import time
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from gcvit_mm.engine.resuming import last_whole_checkpoint
from gcvit_mm.engine.whole_files import BACKGROUND
from gcvit_mm.processes import end_workers


class Noise(BaseDataset):
    """Twelve vectors; every time one is loaded, all three generators add to it."""

    def load_data_list(self):
        return [dict(value=i) for i in range(12)]

    def prepare_data(self, idx):
        noise = random.random() + np.random.rand() + float(torch.rand(()))
        return dict(inputs=torch.full((4,), idx / 12.0 + noise))


class Net(BaseModel):
    """Dropout, a running mean and momentum: all that a checkpoint has to bring back."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1)
        )

    def forward(self, inputs, data_samples=None, mode='loss'):
        return dict(loss=(self.layers(torch.stack(list(inputs))) ** 2).mean())


class Record(Hook):
    """Keeps the loss of every step; may break off in the middle of the run."""

    def __init__(self, stop=None):
        self.losses, self.stop = {}, stop

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses[runner.iter + 1] = outputs['loss'].item()

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.stop:
            raise KeyboardInterrupt


def load(path):
    """Read a checkpoint as mmengine wrote it."""
    return torch.load(path, weights_only=False)


LOOPS = dict(
    iterations=dict(by_epoch=False, max_iters=12),
    epochs=dict(by_epoch=True, max_epochs=4),
)


def train(work_dir, loop='iterations', workers=0, stop=None, resume=False, seed=None, **changes):
    """Train the small net for 12 steps of 4 vectors; return the losses by step."""
    record = Record(stop)
    by_epoch = LOOPS[loop]['by_epoch']
    sampler = 'DefaultSampler' if by_epoch else 'InfiniteSampler'
    loader = dict(
        dataset=Noise(),
        batch_size=4,
        num_workers=workers,
        persistent_workers=workers > 0,
        sampler=dict(type=sampler, shuffle=True),
        collate_fn=dict(type='pseudo_collate'),
    )
    loader.update(changes.pop('loader', {}))
    hooks = dict(
        checkpoint=dict(
            type='SafeCheckpointHook', interval=1 if by_epoch else 3, by_epoch=by_epoch
        ),
        seeds=dict(type='SeedEveryStep'),
        logger=None,
    )
    hooks.update(changes.pop('hooks', {}))
    hooks = {name: hook for name, hook in hooks.items() if hook or name == 'logger'}
    torch.manual_seed(0)
    runner = Runner(
        model=changes.pop('model', None) or Net(),
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg=LOOPS[loop],
        optim_wrapper=changes.pop('optim_wrapper', None)
        or dict(optimizer=dict(type='AdamW', lr=0.05)),
        param_scheduler=[dict(type='LinearLR', start_factor=0.1, end=9, by_epoch=False)],
        default_hooks=hooks,
        custom_hooks=[record],
        resume=resume,
        randomness=dict(seed=seed),
        experiment_name=f'run_{time.time_ns()}',
        log_level='WARNING',
        **changes,
    )
    try:
        runner.train()
    except KeyboardInterrupt:
        assert stop is not None
    finally:
        end_workers()  # collected as garbage, torch's loaders wait five seconds for each
        with contextlib.suppress(OSError):
            BACKGROUND.finish()
    return record.losses


def choose(work_dir):
    """The checkpoint that a run would resume from, and what it says about others."""
    said = []
    path = last_whole_checkpoint(str(work_dir), Net(), said.append)
    return path and Path(path).name, ' '.join(said)


def change(path, edit):
    """Change the content of a checkpoint."""
    content = load(path)
    edit(content)
    torch.save(content, path)
