"""Train a detector, segmentor or classifier: what it is, the config says.

Examples:
    python tools/train.py configs/mask_gcvit_t_1x.py
    tools/dist_train.sh configs/cascade_gcvit_t_3x.py 8 --amp --resume
"""

import argparse
from typing import List, Optional

import torch
from mmengine.config import Config

from gcvit_mm import UserError, cli


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
        help='automatic mixed precision (bfloat16 if no type is named)',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate to the batch size at hand',
    )
    parser.add_argument('--tensorboard', action='store_true', help='also log for TensorBoard')
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
        if not torch.cuda.is_available():
            raise UserError('--amp needs a GPU: leave it out to train on the CPU')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.dtype = args.amp
        # bfloat16 reaches as far as float32 and needs no scale
        cfg.optim_wrapper.loss_scale = 'dynamic' if args.amp == 'float16' else dict(enabled=False)
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise UserError('--auto-scale-lr: this config names no auto_scale_lr.base_batch_size')
        cfg.auto_scale_lr.enable = True
    if args.tensorboard:
        cfg.visualizer.vis_backends.append(dict(type='TensorboardVisBackend'))


def main(argv: Optional[List[str]] = None) -> None:
    """Train."""
    args = parse_args(argv)
    cfg = cli.load_config(args.config, args.cfg_options)
    cli.prepare(cfg, args)
    apply_options(cfg, args)
    cli.preflight(cfg, 'train_dataloader', 'val_dataloader', training=True)
    if args.check:
        print(cli.rehearse(cfg, training=True))
        return
    cli.build_runner(cfg).train()


if __name__ == '__main__':
    cli.run_tool(main)
