"""Train a detector, segmentor or classifier: what it is, the config says.

Examples:
    python tools/train.py configs/mask_gcvit_t_1x.py
    tools/dist_train.sh configs/cascade_gcvit_t_3x.py 8 --amp --resume
"""

import argparse
import os
import os.path as osp
from typing import List, Optional

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process

from gcvit_mm import UserError, cli

# Where curves may go too: packages, and mmengine's backends.
LOGGERS = {
    'tensorboard': 'TensorboardVisBackend',
    'wandb': 'WandbVisBackend',
    'mlflow': 'MLflowVisBackend',
}


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    cli.add_run_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from this checkpoint, or from the last one of the work dir if none is named',
    )
    parser.add_argument(
        '--amp',
        nargs='?',
        const='bfloat16',
        choices=['bfloat16', 'float16'],
        help='automatic mixed precision (bfloat16 if no type is named; on CPUs with instructions '
        'for it, too)',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate to the batch size at hand',
    )
    for name in LOGGERS:
        parser.add_argument(f'--{name}', action='store_true', help=f'also log for {name}')
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='also resume from checkpoints that hold Python objects (they can run any code)',
    )
    return parser.parse_args(argv)


def apply_options(cfg: Config, args: argparse.Namespace) -> None:
    """Put the options of training into the config."""
    if args.resume == 'auto':
        cfg.resume = True
    elif args.resume:
        cli.check_file(args.resume, '--resume')
        cfg.resume, cfg.load_from = True, args.resume
    if args.trust_checkpoint:
        cfg.trust_checkpoint = True
    if args.amp:
        cli.use_amp(cfg, args.amp)
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise UserError('--auto-scale-lr: this config names no auto_scale_lr.base_batch_size')
        cfg.auto_scale_lr.enable = True
    if args.fast_eval:
        cli.evaluate_fast(cfg)
    for name, backend in LOGGERS.items():
        if getattr(args, name):
            cli.need_package(f'--{name}', name, name)
            cfg.visualizer.vis_backends.append(dict(type=backend))
    if args.mlflow:  # which from version 3 on writes no plain folders
        folder, server = osp.abspath(cfg.work_dir), os.environ.get('MLFLOW_TRACKING_URI')
        cfg.visualizer.vis_backends[-1].update(
            exp_name=osp.splitext(osp.basename(args.config))[0],
            tracking_uri=server or f'sqlite:///{folder}/mlflow.db',
            artifact_location=None if server else f'{folder}/mlflow',
        )


def main(argv: Optional[List[str]] = None) -> None:
    """Train."""
    args = parse_args(argv)
    cfg = cli.load_config(args.config, args.cfg_options)
    cli.prepare(cfg, args)
    apply_options(cfg, args)
    cli.preflight(cfg, 'train_dataloader', 'val_dataloader', training=True)
    if args.check:
        line = cli.rehearse(cfg, training=True)
        # where a launcher checks first, the run itself says it
        print(line if 'LOCAL_WORLD_SIZE' in os.environ else f'{line}; {cli.memory_line(cfg)}')
        return
    runner, room = cli.build_runner(cfg), cli.gpu_memory()
    if room and is_main_process():
        runner.register_hook(cli.MemoryReport())
    try:
        runner.train()
    except torch.cuda.OutOfMemoryError as error:
        raise cli.out_of_memory(cfg, runner.iter + 1, room or 0) from error


if __name__ == '__main__':
    cli.run_tool(main)
