"""``python -m gcvit_mm plan CONFIG``: what a run needs, before it is started."""

import argparse
import json
import logging
import math
from pathlib import Path
from typing import Any, Dict, List, Optional

from mmengine.config import Config
from mmengine.logging import MMLogger

from ..datacheck.datasets import SCOPES
from ..errors import UserError
from ..planning.cards import CARDS, GB, Card, find_card, with_reserve
from ..planning.predict import Load
from .arguments import add_config_arguments
from .config import load_config, replace_data_root
from .measuring import in_words, measure
from .memory import compared
from .outputs import check_output, save_figure
from .running import run_tool
from .tables import drawn

EVERY = 1 << 20  # bytes of change that a plot shows


def parse_args(argv: List[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m gcvit_mm plan', description='How much memory a run of a config needs.'
    )
    add_config_arguments(parser)
    parser.add_argument('--gpu', help=f'memory as 24GB, or one of {", ".join(CARDS)}')
    parser.add_argument('--gpus', type=int, default=1, help='processes that train together (1)')
    parser.add_argument('--data-root', help='folder of the data, instead of the one in the config')
    parser.add_argument(
        '--size', nargs=2, type=int, metavar=('H', 'W'), help='pictures; default: the largest'
    )
    parser.add_argument('--objects', type=int, help='in a picture; default: the most of the data')
    parser.add_argument('--amp', action='store_true', help='train in bfloat16, as train.py --amp')
    parser.add_argument(
        '--measure', type=int, metavar='STEPS', help='run as many here, and say how long all takes'
    )
    parser.add_argument('--json', action='store_true', help='print one object')
    parser.add_argument('--plot', metavar='FILE', help='draw memory over a step, e.g. plan.png')
    args = parser.parse_args(argv)
    if args.gpus < 1 or min(args.size or [1]) < 1 or (args.objects or 0) < 0:
        parser.error('--gpus and --size are positive numbers, --objects is none below 0')
    if args.measure is not None and args.measure < 2:
        parser.error('--measure: a spread takes at least 2 steps')
    return args


def main(argv: List[str]) -> int:
    """Plan a run; return 0, also where it does not fit."""
    args = parse_args(argv)
    run_tool(lambda: plan(args))
    return 0


def plan(args: argparse.Namespace) -> None:
    """Predict, and print what was found."""
    card = find_card(args.gpu) if args.gpu else None
    if args.plot:
        check_output(args.plot, [args.config])
    cfg = load_config(args.config, args.cfg_options)
    if args.data_root:
        replace_data_root(cfg, args.data_root)
    if cfg.get('default_scope') not in SCOPES:
        raise UserError(f'{args.config} is no config of a detector, segmentor or classifier')
    if 'train_dataloader' not in cfg or 'optim_wrapper' not in cfg:
        raise UserError(f'{args.config} does not train: plan needs its loader and optimizer')
    if args.amp:
        cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype='bfloat16')
    MMLogger.get_instance('plan', log_level='ERROR')
    logging.getLogger('mmengine').setLevel(logging.ERROR)
    found = look(cfg, args, card)
    if args.measure:
        found['measured'] = measure(cfg, Load(**found['load']), args.measure, args.gpus)
    print(json.dumps(found) if args.json else described(found, args))


def look(cfg: Config, args: argparse.Namespace, card: Optional[Card]) -> Dict[str, Any]:
    """All that is known of a run, as ``--json`` prints it."""
    from ..planning.advice import advise, largest_batch, with_sharding
    from ..planning.predict import dtype_of, find_load, predict

    load = find_load(cfg, tuple(args.size) if args.size else None, args.objects)
    prediction = predict(cfg, load, processes=args.gpus, every=EVERY if args.plot else 0)
    if args.plot:
        from ..planning.plot import draw

        save_figure(draw(prediction), Path(args.plot))
    parts: Dict[str, Dict[str, int]] = {}
    for (part, cause), size in prediction.train.owners.items():
        parts.setdefault(part, {})[cause] = size
    needed = with_reserve(prediction.peak)
    found: Dict[str, Any] = dict(
        load=load._asdict(),
        train=dict(
            peak_bytes=prediction.train.bytes,
            phase=prediction.train.phase,
            parts=parts,
            flops=prediction.flops,
        ),
        test=dict(peak_bytes=prediction.test.bytes, flops=prediction.tested_flops),
        needed_bytes=needed,
        fits=None if card is None else needed <= card.memory,
        advice=[],
    )
    if card is None:
        return found
    found['gpu_bytes'] = card.memory
    found['least_seconds'] = least_seconds(cfg, load, prediction, card, args.gpus, dtype_of(cfg))
    if found['fits']:
        peak = prediction.train.bytes
        found['largest_batch'] = largest_batch(
            cfg, load, peak, card.memory, with_reserve, args.gpus
        )
    else:
        made = advise(cfg, load, prediction, card.memory, with_reserve, args.gpus)
        made += with_sharding(cfg, prediction, card.memory, with_reserve)
        found['advice'] = [change._asdict() for change in made]
    return found


def least_seconds(
    cfg: Config, load: Any, prediction: Any, card: Card, gpus: int, dtype: Any
) -> Optional[float]:
    """Seconds that a card takes for the operations of the schedule alone; None if not known."""
    rate = card.tflops_half if dtype is not None else card.tflops
    loop = cfg.get('train_cfg') or {}
    steps = loop.get('max_iters')
    if steps is None and load.pictures and loop.get('max_epochs'):
        steps = loop['max_epochs'] * math.ceil(load.pictures / (load.batch * gpus))
    return prediction.flops * steps / (rate * 1e12) if rate and steps else None


def in_gb(size: float) -> str:
    """Bytes in words."""
    return f'{size / GB:.2f} GB'


def described(found: Dict[str, Any], args: argparse.Namespace) -> str:
    """What was found, for a terminal."""
    load, train = found['load'], found['train']
    height, width = load['train']
    objects = f', {load["objects"]} objects in each ({load["source"]})' if load['objects'] else ''
    lines = [
        f'{load["batch"]} pictures of {height}x{width}{objects}; evaluation: {load["test_batch"]} '
        f'of {load["test"][0]}x{load["test"][1]}',
        f'training needs {in_gb(train["peak_bytes"])} ({train["phase"]}), evaluation '
        f'{in_gb(found["test"]["peak_bytes"])}, a process with reserve '
        f'{in_gb(found["needed_bytes"])}',
    ]
    causes = sorted({cause for part in train['parts'].values() for cause in part})
    rows = [
        [name, *(in_gb(part[c]) if c in part else '' for c in causes)]
        for name, part in train['parts'].items()
    ]
    lines.append(drawn([['at the peak', *causes], *rows]))
    lines.append(f'a step: {train["flops"] / 1e12:.2f} TFLOP')
    if 'measured' in found:
        lines += in_words(found['measured'], load, args.gpus)
    if found['fits'] is None:
        return '\n'.join(lines)
    lines.append(compared(found['needed_bytes'], found['gpu_bytes']))
    if found.get('least_seconds'):
        hours = found['least_seconds'] / 3600
        lines.append(f'the schedule cannot be faster than {hours:.1f} h of its operations alone')
    if found['advice']:
        rows = [[x['what'], in_gb(x['peak']), x['cost'], x['options']] for x in found['advice']]
        lines.append(drawn([['with', 'needs', 'costs', 'options'], *rows], 'left'))
    if 'largest_batch' in found:
        lines.append(f'largest batch that fits: {found["largest_batch"]}')
    return '\n'.join(lines)
