"""The small net, trained by a config with the guards that the tools put into mmengine's runner."""

import time

from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS

from gcvit_mm import cli
from support.small_run import Net, Noise

MODELS.register_module('SmallNet', module=Net, force=True)
DATASETS.register_module('Noise', module=Noise, force=True)


def run(work_dir, **changes):
    """Train as the tools do, which put their guards into mmengine's runner."""
    cfg = Config(
        dict(
            model=dict(type='SmallNet'),
            work_dir=str(work_dir),
            launcher='none',
            env_cfg=dict(dist_cfg=dict(backend='gloo')),
            train_dataloader=dict(
                dataset=dict(type='Noise'),
                batch_size=4,
                num_workers=0,
                sampler=dict(type='InfiniteSampler'),
                collate_fn=dict(type='pseudo_collate'),
            ),
            train_cfg=dict(by_epoch=False, max_iters=12),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.05)),
            param_scheduler=[dict(type='LinearLR', start_factor=0.1, end=9, by_epoch=False)],
            default_hooks=dict(
                checkpoint=dict(type='SafeCheckpointHook', interval=3, by_epoch=False),
                seeds=dict(type='SeedEveryStep'),
                logger=None,
            ),
            experiment_name=f'run_{time.time_ns()}',
            log_level=changes.pop('log_level', 'ERROR'),
            **changes,
        )
    )
    runner = cli.build_runner(cfg)
    runner.train()
    return runner
