"""Train two steps with a strategy on gloo: a process of test_strategies.py."""

import argparse

from mmengine.config import Config

from gcvit_mm import cli
from support.running import CLS, ROOT


def main(*words: str) -> None:
    """Train, as the tools do: fragment of configs/strategies, work dir, folder of the data,
    learning rate, checkpoint to start from."""
    cli.run_tool(lambda: train(*words))


def train(fragment: str, work_dir: str, data_root: str, rate: str, checkpoint: str) -> None:
    """Read the config, put the strategy over it, train."""
    cfg = cli.load_config(str(ROOT / CLS))
    args = argparse.Namespace(
        config=CLS, work_dir=work_dir, data_root=data_root, launcher='pytorch', local_rank=None
    )
    cli.prepare(cfg, args)
    fragment_cfg = Config.fromfile(ROOT / f'configs/strategies/{fragment}.py')
    cfg.merge_from_dict(fragment_cfg._cfg_dict)
    if fragment == 'ddp':
        cfg.strategy.model_wrapper = dict(type='MMDistributedDataParallel', device_ids=None)
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.default_hooks.checkpoint.interval = 2
    cfg.default_hooks.logger.interval = 1
    cfg.log_processor.update(window_size=1, num_digits=7)
    cfg.optim_wrapper.optimizer.lr = float(rate)
    if fragment == 'deepspeed':
        cfg.strategy.type = 'DeepSpeedStrategy'  # mmengine's own
        cfg.optim_wrapper.type = 'DeepSpeedOptimWrapper'
        cfg.optim_wrapper.pop('clip_grad')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False, batch_size=4)
    cfg.load_from = checkpoint
    cfg.randomness = dict(seed=3)
    cli.preflight(cfg, training=True)
    cli.build_runner(cfg).train()
