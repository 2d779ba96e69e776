"""Train a few steps with FSDP on gloo: a process of test_strategies.py, started by torchrun.

Arguments: work dir, folder of the data, learning rate, checkpoint to start from ('' for none).
"""

import argparse
import sys

from mmengine.config import Config
from mmengine.registry import RUNNERS
from running import ROOT

from gcvit_mm.engine import launch

CONFIG = 'configs/cls_gcvit_xxt_shapes.py'


def main() -> None:
    """Read the config, put the strategy over it, train."""
    work_dir, data_root, rate, checkpoint = sys.argv[1:]
    cfg = launch.load_config(str(ROOT / CONFIG))
    args = argparse.Namespace(
        config=CONFIG, work_dir=work_dir, data_root=data_root, launcher='pytorch', local_rank=None
    )
    launch.prepare(cfg, args)
    cfg.merge_from_dict(Config.fromfile(ROOT / 'configs/strategies/fsdp.py')._cfg_dict)
    cfg.strategy.model_wrapper.device_id = 'cpu'
    # What is on the CPU already cannot be offloaded to it: torch crashes.
    cfg.strategy.state_dict_cfg = dict(
        state_dict_type='FULL_STATE_DICT',
        state_dict_config=dict(type='FullStateDictConfig'),
        optim_state_dict_config=dict(type='FullOptimStateDictConfig'),
    )
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.default_hooks.checkpoint.interval = 2
    cfg.optim_wrapper.optimizer.lr = float(rate)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False, batch_size=4)
    cfg.load_from = checkpoint or None
    launch.init_gloo('pytorch')
    RUNNERS.build(cfg).train()


if __name__ == '__main__':
    main()
