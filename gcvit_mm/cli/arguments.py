"""What several tools accept on their command line."""

import argparse
from typing import Any

from mmengine.config import DictAction

from ..deploy.engines import ENGINES

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


class KeyValue(DictAction):
    """mmengine's ``DictAction``, with an error for words that are no KEY=VALUE."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        """Parse the words after an option."""
        wrong = [word for word in values if not word.partition('=')[1] or word.startswith('=')]
        if wrong:
            parser.error(f'{option}: {wrong[0]} is no KEY=VALUE, e.g. train_cfg.max_epochs=1')
        try:
            super().__call__(parser, namespace, values, option)
        except Exception as error:  # unbalanced brackets and the like
            parser.error(f'{option}: {" ".join(values)} cannot be read: {error}')


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every tool that reads a config accepts."""
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=KeyValue,
        metavar='KEY=VALUE',
        help='change settings of the config, e.g. train_dataloader.batch_size=4',
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what training and testing accept."""
    add_config_arguments(parser)
    parser.add_argument('--work-dir', help='logs and checkpoints; default work_dirs/CONFIG_NAME')
    parser.add_argument('--data-root', help='folder of the data, instead of the one in the config')
    parser.add_argument(
        '--check', action='store_true', help='check config, data and devices, then stop'
    )
    parser.add_argument(
        '--fast-eval',
        action='store_true',
        help='compute the same AP with faster-coco-eval',
    )
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)


def add_engine_argument(parser: argparse.ArgumentParser) -> None:
    """Add what tools accept that take an exported file in the place of a checkpoint."""
    parser.add_argument(
        '--engine',
        choices=ENGINES,
        help='what runs FILE.onnx (onnxruntime); openvino computes in float32, openvino-auto as '
        'OpenVINO chooses for the processor',
    )
