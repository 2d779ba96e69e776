"""Compare a backbone with others: time and peak memory, interleaved in one process.

SUBJECT and what it is compared with are config files, calls such as
"GCViT(arch='tiny', window_size=24)", or names of peers. Of a config its backbone runs, without
loading weights. Stochastic depth and dropout are off on all sides.

A peer 'without-...' is the subject with one part taken out that makes it fast or small.

Examples:
    python tools/benchmark.py configs/mask_gcvit_t_3x.py --against transcription mmdet-swin-t
    python tools/benchmark.py "GPViT(arch='L1')" --against convnext-t --mode forward --plot a.png
    python tools/benchmark.py "GCViT(arch='tiny')" --against without-aligned-bias --mode forward
    python tools/benchmark.py --suite cpu --json cpu.json
    python tools/benchmark.py --step configs/mask_gcvit_t_3x.py --batch 1 --plot step.png
    python tools/benchmark.py --operators --only roi_align
    python tools/benchmark.py --growth --json growth.json --plot growth.png
    python tools/benchmark.py --formats mask.onnx mask8.onnx configs/mask_gcvit_t_3x.py CHECKPOINT
    python tools/benchmark.py --overhead configs/mask_gcvit_xxt_shapes.py --rounds 50
    python tools/benchmark.py --table gcvit2 --device cuda --json gcvit2.json --plot gcvit2.png
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from mmengine.config import DictAction

import gcvit_mm
from gcvit_mm import UserError, cli

from . import measure as benchmark
from .ablations import MEANS
from .compare import compare, grow, run_suite
from .contenders import PEERS, SAME
from .formats import compare_formats, read_words
from .operators import measure_ops
from .overhead import measure_overhead
from .show import (
    draw_comparisons,
    draw_formats,
    draw_growth,
    draw_operators,
    draw_suite,
    draw_table,
    print_comparison,
    print_formats,
    print_growth,
    print_operator,
    print_overhead,
    print_table_row,
)
from .show_step import draw_steps, print_step
from .step import measure_steps
from .suites import FAMILIES, MODES, SUITES, Setting
from .tables import TABLES, run_table

THEIRS = ", or those of the table or of --step's config"


def describe(args: argparse.Namespace) -> dict:
    """Return what the figures depend on."""
    cuda = args.device == 'cuda'
    return dict(
        device=torch.cuda.get_device_name() if cuda else platform.machine(),
        threads=torch.get_num_threads(),
        load_at_start=os.getloadavg()[0] if hasattr(os, 'getloadavg') else None,
        torch=torch.__version__,
        gcvit_mm=gcvit_mm.__version__,
        rounds=args.rounds,
        warmups=args.warmups,
    )


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('subject', nargs='?', help='config file or call')
    add('--against', nargs='+', default=[], metavar='PEER', help=', '.join([*SAME, *PEERS]))
    add('--step', metavar='CONFIG', help='its training step and evaluation, part by part')
    add('--suite', choices=SUITES, help='measure the bars of a suite: value, bar, pass or fail')
    add('--table', choices=TABLES, help="the classifiers of a paper's table of speed")
    add(
        '--formats',
        nargs='+',
        metavar='WORD',
        help='FILE.onnx ... CONFIG CHECKPOINT: torch beside exported files, time, size, metric',
    )
    add('--overhead', metavar='CONFIG', help="what the checks and hooks cost, over mmengine's run")
    add('--no-metric', action='store_true', help='with --formats: do not evaluate')
    add('--data-root', metavar='DIR', help='data of --formats, --overhead; real pictures of --step')
    add('--only', metavar='TEXT', help='bars, families, models or formats with this in their title')
    add('--operators', action='store_true', help='those of gcvit_mm beside those compiled by mmcv')
    add('--growth', action='store_true', help='time and memory against the number of pixels')
    add('--sides', nargs='+', type=int, default=[224, 448, 672, 896, 1120, 1344, 1600])
    add(
        '--mode',
        nargs='+',
        choices=MODES,
        help='default: both; of --growth and --table: forward; of --step, forward is an evaluation',
    )
    add('--size', nargs=2, type=int, metavar=('H', 'W'), help=f'default: 800 1280{THEIRS}')
    add('--batch', type=int, help=f'default: 1{THEIRS}')
    add('--dtype', choices=benchmark.DTYPES, default='fp32', help='16 bits: autocast')
    add('--compile', action='store_true', help='torch.compile with dynamic shapes, all contenders')
    add('--device', choices=('cpu', 'cuda'), default='cpu')
    add(
        '--threads',
        type=int,
        help='threads of the CPU; default: as torch chooses, cpu and training: 2',
    )
    add('--rounds', type=int, default=9, help='rounds that count')
    add('--warmups', type=int, default=5, help='rounds before them')
    add('--json', type=Path, metavar='FILE', help='write all figures')
    add('--plot', type=Path, metavar='FILE.png', help='draw them')
    add('--cfg-options', nargs='+', action=DictAction, help='change settings of the subject')
    args = parser.parse_args(argv)
    given = [args.subject, args.suite, args.growth or None, args.operators or None, args.table]
    given += [args.formats, args.overhead, args.step]
    if sum(what is not None for what in given) != 1:
        raise UserError(
            'give one of: a subject, --suite, --growth, --operators, --table, --formats, '
            '--overhead, --step'
        )
    counts = [args.rounds, *args.sides, *(args.size or ())]
    counts += [] if args.batch is None else [args.batch]
    if min(counts) < 1 or args.warmups < 0:
        raise UserError('--rounds, --batch, --size and --sides must be at least 1')
    if len({args.subject or args.step, *args.against}) <= len(args.against):
        raise UserError('--against: name each once, and not the subject')
    if args.compile and (part := sorted(set(args.against) & set(MEANS))):
        raise UserError(f'--against {part[0]}: parts are taken out of eager models only')
    if (args.table or args.step) and args.compile:
        raise UserError('--compile: goes with a subject only')
    if args.overhead and (args.plot or args.compile or args.dtype != 'fp32' or args.size):
        raise UserError('--overhead: trains as the config says: give --device, --rounds, --json')
    if args.no_metric and not args.formats:
        raise UserError('--no-metric: goes with --formats only')
    if args.data_root and not (args.formats or args.overhead or args.step):
        raise UserError('--data-root: goes with --formats, --overhead and --step only')
    if args.step and args.data_root and args.size:
        raise UserError('--size: real pictures, of --data-root, have sizes of their own')
    if args.step and args.device == 'cpu' and args.dtype == 'fp16':
        raise UserError('--dtype fp16: CPUs train in fp32 or bf16')
    if args.formats and (args.device != 'cpu' or args.dtype != 'fp32' or args.compile):
        raise UserError('--formats: runs on the CPU, from float32: leave the other options out')
    if args.formats and (args.batch or 1) != 1:
        raise UserError('--formats: times one image: leave --batch out')
    if args.growth and len(set(args.sides)) < 2:
        raise UserError('--sides: an exponent needs two sizes')
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: torch finds no GPU')
    if args.suite == 'gpu' and args.device != 'cuda':
        raise UserError('--suite gpu needs --device cuda')
    return args


def write(args: argparse.Namespace, report: dict) -> None:
    """Write the files that were asked for, with what has been measured so far.

    Raises:
        UserError: If one cannot be written.
    """
    draw = dict(
        bars=draw_suite,
        growth=draw_growth,
        comparisons=draw_comparisons,
        operators=draw_operators,
        table=draw_table,
        formats=draw_formats,
        steps=draw_steps,
    )
    try:
        if args.json:
            args.json.write_text(json.dumps(report, indent=1))
        if args.plot:
            part = next(key for key in report if key in draw)
            draw[part](report[part]).savefig(args.plot, bbox_inches='tight')
    except (OSError, ValueError) as error:
        raise UserError(f'cannot write: {error}') from error


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write; status 1 if a bar is missed."""
    args = parse_args(argv)
    threads = args.threads or (2 if args.suite in ('cpu', 'training') or args.operators else None)
    if threads:
        torch.set_num_threads(threads)
    setting = Setting(
        tuple(args.size or (800, 1280)),
        args.batch or 1,
        args.dtype,
        args.compile,
        args.device,
        args.rounds,
        args.warmups,
    )
    report: dict[str, Any] = dict(setting=describe(args))

    def keep(part: str, found: dict) -> None:
        """Add a figure to the files, so that a later failure loses none."""
        report.setdefault(part, []).append(found)
        write(args, report)

    if args.operators:
        for row in measure_ops(args.rounds, args.only or ''):
            print_operator(row)
            keep('operators', row._asdict())
    elif args.step:
        size = tuple(args.size) if args.size else None
        given = (size, args.batch, args.cfg_options, args.data_root)
        for mode in args.mode or MODES[::-1]:
            found = measure_steps(args.step, args.against, setting, mode, *given)
            print_step(found)
            keep('steps', found)
    elif args.suite:
        for bar in run_suite(args.suite, args.only, setting):
            keep('bars', bar)
    elif args.growth:
        names = [name for name in FAMILIES if not args.only or args.only in name]
        if not names:
            raise UserError(f"--only '{args.only}': families are {', '.join(FAMILIES)}")
        sides = sorted(set(args.sides))
        for name in names:
            for mode in args.mode or MODES[:1]:
                keep('growth', grow(name, sides, mode, setting))
        print_growth(report['growth'])
    elif args.formats:
        sources = read_words(args.formats, args.cfg_options, args.data_root)
        rows = compare_formats(sources, setting, args.only, not args.no_metric)
        print_formats(rows, setting.size, report['setting']['threads'])
        for row in rows:
            keep('formats', row)
    elif args.overhead:
        cfg = cli.load_config(args.overhead, args.cfg_options)
        if args.data_root:
            cli.replace_data_root(cfg, args.data_root)
        cfg.launcher = 'none'
        if args.device == 'cpu':
            cli.use_cpu(cfg)
        for row in measure_overhead(cfg, args.rounds, args.warmups):
            print_overhead(row)
            keep('overhead', row)
    elif args.table:
        size = tuple(args.size) if args.size else None
        for mode in args.mode or MODES[:1]:
            rows = run_table(args.table, args.only, setting, size, args.batch, mode)
            for number, row in enumerate(rows):
                print_table_row(row, first=number == 0)
                keep('table', dict(row, device=report['setting']['device']))
    else:
        for mode in args.mode or MODES:
            found = compare(args.subject, args.against, setting, mode, args.cfg_options)
            print_comparison(found)
            keep('comparisons', found)
    if not all(bar['passed'] for part in ('bars', 'overhead') for bar in report.get(part, [])):
        sys.exit(1)
