"""Train two steps with a strategy on gloo: a process of test_strategies.py, started by torchrun.

Arguments: fragment of configs/strategies, work dir, folder of the data, learning rate, checkpoint
to start from.
"""

import argparse
import sys

from mmengine.config import Config

from gcvit_mm import cli
from support.running import CLS, ROOT


def without_gpu(cfg: Config, fragment: str) -> None:
    """Change what a fragment says for GPUs."""
    if fragment == 'fsdp':
        cfg.strategy.model_wrapper.device_id = 'cpu'
        # What is on the CPU already cannot be offloaded to it: torch crashes.
        cfg.strategy.state_dict_cfg = dict(
            state_dict_type='FULL_STATE_DICT',
            state_dict_config=dict(type='FullStateDictConfig'),
            optim_state_dict_config=dict(type='FullOptimStateDictConfig'),
        )
    elif fragment == 'ddp':
        cfg.strategy.model_wrapper = dict(type='MMDistributedDataParallel', device_ids=None)


def main() -> None:
    """Read the config, put the strategy over it, train."""
    fragment, work_dir, data_root, rate, checkpoint = sys.argv[1:]
    cfg = cli.load_config(str(ROOT / CLS))
    args = argparse.Namespace(
        config=CLS, work_dir=work_dir, data_root=data_root, launcher='pytorch', local_rank=None
    )
    cli.prepare(cfg, args)
    cfg.merge_from_dict(Config.fromfile(ROOT / f'configs/strategies/{fragment}.py')._cfg_dict)
    without_gpu(cfg, fragment)
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.default_hooks.checkpoint.interval = 2
    cfg.optim_wrapper.optimizer.lr = float(rate)
    if fragment == 'deepspeed':
        cfg.optim_wrapper.type = 'DeepSpeedOptimWrapper'
        cfg.optim_wrapper.pop('clip_grad')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False, batch_size=4)
    cfg.load_from = checkpoint
    cli.build_runner(cfg).train()


if __name__ == '__main__':
    cli.run_tool(main)
