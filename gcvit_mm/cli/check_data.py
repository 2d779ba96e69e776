"""``python -m gcvit_mm check-data CONFIG``: looking at the data before hours are spent on it."""

import argparse
import sys
from typing import List

from mmengine.registry import init_default_scope

from ..datacheck.check import check
from ..datacheck.datasets import SCOPES
from ..errors import UserError
from .arguments import add_config_arguments
from .config import load_config, replace_data_root
from .running import run_tool


def main(argv: List[str]) -> int:
    """Check the data of a config; return 0, or 2 when there are errors."""
    parser = argparse.ArgumentParser(
        prog='python -m gcvit_mm check-data', description='Look at the data before training.'
    )
    add_config_arguments(parser)
    parser.add_argument('--data-root', help='folder of the data, instead of the one in the config')
    parser.add_argument('--out-dir', default='work_dirs/check_data', help='for drawn samples')
    parser.add_argument('--samples', type=int, default=50, help='images to read a split (50)')
    parser.add_argument('--gpus', type=int, default=1, help='processes to train with (1)')
    args = parser.parse_args(argv)
    status = 0

    def run() -> None:
        nonlocal status
        cfg = load_config(args.config, args.cfg_options)
        if args.data_root:
            replace_data_root(cfg, args.data_root)
        if cfg.get('default_scope') not in SCOPES:
            raise UserError(f'{args.config} is no config of a detector, segmentor or classifier')
        init_default_scope(cfg.default_scope)
        report = check(cfg, args.samples, args.out_dir, args.gpus)
        for text in report.warnings:
            print(f'warning: {text}')
        for text in report.errors:
            print(f'error: {text}', file=sys.stderr)
        print(f'{len(report.errors)} errors, {len(report.warnings)} warnings')
        status = 2 if report.errors else 0

    run_tool(run)
    return status
