"""What the trainings of campaign.py are made of: a module that their config imports."""

import contextlib
import os
import time

from mmengine.registry import METRICS, MODELS

from support.faulty_run import HeavyNet
from support.judged_run import Judged, Score

STEPS, EVERY = 24, 2  # of a training; between checkpoints, of which every second is evaluated
EVALUATING = 'evaluating'  # a file in the work dir for as long as it does
CONFIG = f"""
custom_imports = dict(imports=['support.campaign_run'])
model = dict(type='JudgedNet')
loader = dict(
    batch_size=2,
    num_workers=1,
    persistent_workers=True,
    dataset=dict(type='Noise'),
    sampler=dict(type='InfiniteSampler'),
    collate_fn=dict(type='pseudo_collate'),
)
train_dataloader = loader
val_dataloader = dict(loader, sampler=dict(type='DefaultSampler', shuffle=False))
val_evaluator = dict(type='SlowScore', work_dir='{{}}')
val_cfg = dict()
train_cfg = dict(by_epoch=False, max_iters={STEPS}, val_interval={2 * EVERY})
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.01))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, end={STEPS}, by_epoch=False)]
default_hooks = dict(
    checkpoint=dict(
        type='SafeCheckpointHook', interval={EVERY}, by_epoch=False, max_keep_ckpts=2,
        save_best='acc', rule='greater',
    ),
    seeds=dict(type='SeedEveryStep'),
    stop=dict(type='StopOnSignal'),
    losses=dict(type='WriteLosses'),
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=5)
"""


@MODELS.register_module(force=True)
class JudgedNet(Judged, HeavyNet):
    """A checkpoint of 24 MB, and a score that no two steps have alike."""


@METRICS.register_module(force=True)
class SlowScore(Score):
    """Says by a file that it is being asked, and takes its time."""

    def __init__(self, work_dir):
        super().__init__()
        self.marker = os.path.join(work_dir, EVALUATING)

    def process(self, data_batch, data_samples):
        open(self.marker, 'w').close()
        time.sleep(0.02)
        super().process(data_batch, data_samples)

    def compute_metrics(self, results):
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.marker)
        return super().compute_metrics(results)
