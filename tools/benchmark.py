"""Compare a backbone with others: time and peak memory, interleaved in one process.

SUBJECT and what it is compared with are config files, calls such as
"GCViT(arch='tiny', window_size=24)", or names of peers. Of a config its backbone runs, without
loading weights. Stochastic depth and dropout are off on all sides.

A peer 'without-...' is the subject with one part taken out that makes it fast or small.

Examples:
    python tools/benchmark.py configs/mask_gcvit_t_3x.py --against transcription mmdet-swin-t
    python tools/benchmark.py "GPViT(arch='L1')" --against convnext-t --mode forward --plot a.png
    python tools/benchmark.py "GCViT(arch='tiny')" --against without-cached-bias --mode forward
    python tools/benchmark.py --suite cpu --json cpu.json
    python tools/benchmark.py --growth --json growth.json --plot growth.png
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from mmengine.config import DictAction
from mmengine.registry import MODELS
from rich.console import Console
from rich.table import Table
from torch import Tensor

import gcvit_mm
from gcvit_mm import UserError
from gcvit_mm.engine import benchmark, launch
from gcvit_mm.engine.ablations import MEANS
from gcvit_mm.engine.contenders import PEERS, SAME, build, build_peer

MODES = ('forward', 'training')  # training: forward and backward
GRADIENT_CROP = 320  # side of the part of the images on which gradients are compared


class Setting(NamedTuple):
    """How contenders run."""

    size: tuple = (800, 1280)
    batch: int = 1
    dtype: str = 'fp32'
    compiled: bool = False
    device: str = 'cpu'
    rounds: int = 9
    warmups: int = 5

    @property
    def images(self) -> Tensor:
        """A batch of noise."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch, 3, *self.size)
        return torch.randn(shape, generator=generator).to(self.device)


class Bar(NamedTuple):
    """One figure that has to stay below its limit (a throughput: above)."""

    subject: str
    peer: str | None
    quantity: str  # 'time', 'time per GMAC', 'memory', 'throughput', 'steps': ratios; 'ms'
    limit: float
    mode: str = 'forward'
    size: tuple = (800, 1280)
    batch: int = 1
    dtype: str = 'fp32'
    compiled: bool = False

    @property
    def title(self) -> str:
        """What is measured, in words."""
        height, width = self.size
        over = f' over {self.peer}' if self.peer else ''
        how = f'{self.mode}, {self.batch}x3x{height}x{width}, {self.dtype}'
        how += ', compiled' if self.compiled else ''
        if self.quantity == 'steps':
            how = f'AdamW steps of {self.batch} images, {self.dtype}, {STEP_SHAPES} shapes'
        return f'{self.subject}{over}: {self.quantity} ({how})'

    def passes(self, value: float) -> bool:
        """Whether a value is on the right side of the limit."""
        return value >= self.limit if self.quantity == 'throughput' else value <= self.limit


W24 = "GCViT(arch='tiny', window_size=24, query_pools=(3, 2, 1, 0))"
W16 = "GCViT(arch='tiny', window_size=16, query_pools=(3, 2, 1, 0))"
W7 = "GCViT(arch='tiny')"
W24_RECOMPUTED = W24[:-1] + ', with_cp=True)'
GPU = dict(mode='training', batch=2, dtype='bf16')
SUITES = {
    'cpu': [
        Bar(W24, 'transcription', 'time', 0.60),
        Bar(W16, 'transcription', 'time', 0.80),
        Bar(W16, 'mmdet-swin-t', 'time', 1.40),
        Bar(W24, 'transcription', 'memory', 0.70, mode='training'),
        Bar(W7, 'mmdet-swin-t', 'time', 1.12),
        Bar("GCViT(arch='tiny', out_indices=(3,))", 'timm', 'time', 0.90, size=(224, 224)),
        Bar("ScalableViT(arch='small')", 'mmdet-swin-t', 'time per GMAC', 1.10),
        Bar("GGTransformer(arch='tiny')", 'mmdet-swin-t', 'time per GMAC', 1.10),
        Bar("GPViT(arch='L1')", 'mmdet-swin-t', 'time per GMAC', 1.20),
        Bar(W24_RECOMPUTED, W24, 'memory', 0.50, mode='training'),
    ],
    'gpu': [
        Bar(W24, 'transcription', 'time', 0.50, **GPU),
        Bar(W16, 'transcription', 'time', 0.55, **GPU),
        Bar(W7, 'transcription', 'time', 0.77, **GPU),
        Bar(W24, 'transcription', 'memory', 0.70, **GPU),
        # Four times the memory traffic of a perfectly fused forward pass on an H100.
        Bar(W24, None, 'ms', 4 * 1.3, batch=2, dtype='bf16', compiled=True),
        Bar(W7, 'mmdet-swin-t', 'throughput', 0.80, size=(224, 224), batch=128, dtype='bf16'),
        Bar(
            'configs/mask_gcvit_t_3x.py',
            'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py',
            'steps',
            1.15,
            **GPU,
        ),
    ],
}
STEP_SHAPES = 20
# Families of --growth: what runs, and the power of the pixels that its attention takes.
FAMILIES = {
    'GC ViT-T': (W7, '1'),
    'GC ViT-T, windows 16': (W16, '1'),
    'GG-T': ("GGTransformer(arch='tiny')", '1'),
    'GPViT-L1': ("GPViT(arch='L1')", '1.5 (stripes)'),
    'ScalableViT-S': ("ScalableViT(arch='small')", '1 (IWSA), 2 (SSA)'),
}


# ------------------------------------------------------------------ comparing
def compare(
    spec: str,
    peers: list[str],
    setting: Setting,
    mode: str,
    cfg_options: dict | None = None,
    timed: bool = True,
) -> dict:
    """Compare a subject with its peers in one mode.

    Peers that compute the same are checked first, in fp32.

    Returns:
        What ``--json`` holds of one comparison.

    Raises:
        UserError: For bad names, or a peer that does not compute the same.
    """
    training, images = mode == 'training', setting.images
    torch.manual_seed(0)
    rows, passes, models, subject = {}, {}, {}, None
    for name in [spec, *peers]:
        model = (
            build(spec, cfg_options) if subject is None else build_peer(name, subject, setting.size)
        )
        model.to(setting.device)
        model.train(training)  # not chained: mmdet's Swin returns None
        subject = model if subject is None else subject
        parity = None
        if name in SAME and name != spec:
            # timm mixes the global queries of a batch up; a crop suffices for the gradients
            sample = images[:1] if name == 'timm' else images
            sample = sample[..., :GRADIENT_CROP, :GRADIENT_CROP] if training else sample
            parity = benchmark.check_parity(subject, model, sample, training, name)
        rows[name] = dict(
            gmacs=benchmark.count_gmacs(model, setting.size) * setting.batch,
            weights_mib=benchmark.weight_memory(model),
            parity=parity,
        )
        models[name] = model
        if setting.compiled:
            model = torch.compile(model, **getattr(model, 'compile_defaults', dict(dynamic=True)))
        passes[name] = benchmark.make_pass(model, images, training, setting.dtype)
    times = {}
    if timed:
        times = benchmark.interleave(passes, setting.rounds, setting.warmups, setting.device)
    for name, row in rows.items():
        if not timed or setting.compiled:
            passes[name]()  # nothing that belongs to the first pass only
        row['pass_mib'] = benchmark.peak_memory(passes[name], models[name])
        row['memory_mib'] = row['pass_mib'] + row['weights_mib']
        row['times'] = times.get(name)
        row['time'] = benchmark.quartiles(times[name])._asdict() if timed else None
    for name in peers:
        rows[name].update(ratios(rows[spec], rows[name]))
    height, width = setting.size
    return dict(
        subject=spec,
        mode=mode,
        size=[height, width],
        batch=setting.batch,
        dtype=setting.dtype,
        compiled=setting.compiled,
        rows=rows,
    )


def ratios(row: dict, peer: dict) -> dict:
    """Return the ratios of a subject over a peer."""
    found: dict[str, Any] = {'memory_ratio': row['memory_mib'] / peer['memory_mib']}
    if row['times']:
        over = benchmark.ratio(row['times'], peer['times'])
        found['time_ratio'] = over._asdict()
        found['time_per_gmac_ratio'] = over.median * peer['gmacs'] / row['gmacs']
    return found


# ------------------------------------------------------------- steps, suites
def step_shapes() -> list[tuple[int, int]]:
    """Shapes as multi-scale training meets them: short sides 480..800, both orientations."""
    generator = torch.Generator().manual_seed(0)
    shapes = []
    for number in range(STEP_SHAPES):
        short = 480 + 32 * int(torch.randint(11, (), generator=generator))
        long = min(1333, int(short * (1.2 + 0.4 * float(torch.rand((), generator=generator)))))
        shapes.append((short, long) if number % 2 else (long, short))
    return shapes


def make_steps(path: str, batch: int, shapes: list, dtype: str, device: str) -> tuple:
    """Build a detector from a config, and a function that trains it one step on every shape.

    Raises:
        UserError: If mmdet is not installed.
    """
    try:
        from mmdet.testing import demo_mm_inputs
        from mmdet.utils import register_all_modules
        from mmengine.hub import get_config
    except ImportError as error:
        raise UserError(f'whole training steps need mmdet with its ops: {error}') from error
    register_all_modules()
    cfg = get_config(path) if '::' in path else launch.load_config(path)
    cfg.model.backbone.pop('init_cfg', None)
    model = benchmark.make_deterministic(MODELS.build(cfg.model)).to(device)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    classes = cfg.model.roi_head.bbox_head.num_classes
    options: dict = dict(num_classes=classes, with_mask=True, device=device)
    inputs = [
        demo_mm_inputs(batch, [(3, *shape)] * batch, [8] * batch, **options) for shape in shapes
    ]

    def steps() -> None:
        for data in inputs:
            optimizer.zero_grad(set_to_none=True)
            prepared = model.data_preprocessor(deepcopy(data), True)
            enabled = dtype != 'fp32'
            with torch.autocast(device, benchmark.DTYPES[dtype], enabled=enabled):
                losses = model(**prepared, mode='loss')
            model.parse_losses(losses)[0].backward()
            optimizer.step()

    return model, steps


def measure(bar: Bar, setting: Setting) -> tuple[float, dict | None]:
    """Measure one bar; return its value and the comparison behind it."""
    setting = setting._replace(
        size=bar.size, batch=bar.batch, dtype=bar.dtype, compiled=bar.compiled
    )
    if bar.quantity == 'steps':
        shapes = step_shapes()
        passes = {
            name: make_steps(name, bar.batch, shapes, bar.dtype, setting.device)[1]
            for name in (bar.subject, str(bar.peer))
        }
        rounds = min(setting.rounds, 5)
        times = benchmark.interleave(passes, rounds, 1, setting.device)
        return benchmark.ratio(times[bar.subject], times[str(bar.peer)]).median, dict(times=times)
    peers = [bar.peer] if bar.peer else []
    timed = bar.quantity != 'memory'
    found = compare(bar.subject, peers, setting, bar.mode, timed=timed)
    if bar.peer is None:
        return found['rows'][bar.subject]['time']['median'] * 1e3, found
    row = found['rows'][bar.peer]
    values = dict(memory=row['memory_ratio'])
    if timed:
        values['time'] = row['time_ratio']['median']
        values['time per GMAC'] = row['time_per_gmac_ratio']
        values['throughput'] = 1 / values['time']
    return values[bar.quantity], found


def run_suite(name: str, only: str | None, setting: Setting) -> list[dict]:
    """Measure the bars of a suite, and print each as it is done.

    Raises:
        UserError: If no bar has the text of ``--only``.
    """
    bars = [bar for bar in SUITES[name] if not only or only in bar.title]
    if not bars:
        raise UserError(f"--only '{only}': no bar of the suite {name} has that in its title")
    rows = []
    for bar in bars:
        value, found = measure(bar, setting)
        passed = bar.passes(value)
        sign = '>=' if bar.quantity == 'throughput' else '<='
        verdict = '[green]pass[/]' if passed else '[red]FAIL[/]'
        title = bar.title.replace('[', r'\[')
        Console(width=160).print(f'{verdict} {value:.2f} {sign} {bar.limit:.2f}  {title}')
        rows.append(
            dict(title=bar.title, value=value, limit=bar.limit, passed=passed, comparison=found)
        )
    return rows


# --------------------------------------------------------------------- growth
def grow(family: str, sides: list[int], mode: str, setting: Setting) -> dict:
    """Measure one family on squares of growing side, and fit exponents of the pixels."""
    spec, theory = FAMILIES[family]
    training = mode == 'training'
    model = build(spec).to(setting.device)
    model.train(training)
    passes = {
        str(side): benchmark.make_pass(
            model, setting._replace(size=(side, side)).images, training, setting.dtype
        )
        for side in sides
    }
    times = benchmark.interleave(passes, setting.rounds, setting.warmups, setting.device)
    pixels = [side * side for side in sides]
    curves = {
        'time': [benchmark.quartiles(times[name]).median for name in passes],
        'memory': [benchmark.peak_memory(run, model) for run in passes.values()],
        'GMACs': [benchmark.count_gmacs(model, (side, side)) for side in sides],
        'attention GMACs': [benchmark.count_gmacs(model, (side, side), True) for side in sides],
    }
    fits = {name: benchmark.exponent(pixels, values) for name, values in curves.items()}
    return dict(family=family, mode=mode, theory=theory, sides=sides, curves=curves, exponents=fits)


# -------------------------------------------------------------------- showing
def print_comparison(found: dict) -> None:
    """Print one comparison; ratios are those of the subject over each peer."""
    height, width = found['size']
    how = [found['mode'], f'{found["batch"]}x3x{height}x{width}', found['dtype']]
    how += ['compiled'] if found['compiled'] else []
    table = Table(title=', '.join(how), caption='ratios: the first row over each other')
    for title in ('', 'ms (quartiles)', 'ms/GMAC', 'MiB', 'time', 'memory', 'time/GMAC', 'differs'):
        table.add_column(title, justify='right' if title else 'left')
    for name, row in found['rows'].items():
        low, median, high = (row['time'][key] * 1e3 for key in ('low', 'median', 'high'))
        cells = [
            name,
            f'{median:.1f} ({low:.1f}-{high:.1f})',
            f'{median / row["gmacs"]:.2f}',
            f'{row["memory_mib"]:.0f}',
        ]
        if 'time_ratio' in row:
            over = row['time_ratio']
            cells.append(f'{over["median"]:.2f} ({over["low"]:.2f}-{over["high"]:.2f})')
            cells += [f'{row["memory_ratio"]:.2f}', f'{row["time_per_gmac_ratio"]:.2f}']
            cells.append('-' if row['parity'] is None else f'{row["parity"]["outputs"]:.0e}')
        table.add_row(*cells)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def print_growth(rows: list[dict]) -> None:
    """Print the fitted exponents."""
    table = Table(title='power of the number of pixels, fitted')
    for title in ('', 'mode', 'time', 'memory', 'GMACs', 'attention GMACs', 'attention, theory'):
        table.add_column(title, justify='right' if title else 'left')
    for row in rows:
        fits = [f'{value:.2f}' for value in row['exponents'].values()]
        table.add_row(row['family'], row['mode'], *fits, row['theory'])
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def draw_comparisons(comparisons: list[dict]) -> Figure:
    """Draw the time of every round."""
    figure = Figure(figsize=(7, 2.5 * len(comparisons)), dpi=130, layout='constrained')
    panels = figure.subplots(len(comparisons), 1, squeeze=False)[:, 0]
    for axes, found in zip(panels, comparisons):
        for number, row in enumerate(found['rows'].values()):
            times = [seconds * 1e3 for seconds in row['times']]
            axes.plot(times, [number] * len(times), 'o', alpha=0.5)
            axes.plot(row['time']['median'] * 1e3, number, '|', color='black', ms=20)
        axes.set_yticks(range(len(found['rows'])), list(found['rows']), fontsize=7)
        axes.set_ylim(len(found['rows']) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel(f'{found["mode"]}, ms (line: median)')
    return figure


def draw_suite(rows: list[dict]) -> Figure:
    """Draw the values over their limits."""
    figure = Figure(figsize=(9, 0.6 * len(rows) + 1), dpi=130, layout='constrained')
    axes = figure.subplots()
    colours = ['C2' if row['passed'] else 'C3' for row in rows]
    axes.barh(
        [row['title'].replace(': ', '\n') for row in rows],
        [row['value'] / row['limit'] for row in rows],
        color=colours,
    )
    axes.axvline(1, color='black', lw=0.8)
    axes.tick_params(axis='y', labelsize=5)
    axes.invert_yaxis()
    axes.set_xlabel('value over its limit (green: passed)')
    return figure


def draw_growth(rows: list[dict]) -> Figure:
    """Draw time and memory over the pixels; dashed: counted GMACs, from the same first point."""
    figure = Figure(figsize=(11, 5), dpi=130, layout='constrained')
    for axes, what, unit in zip(figure.subplots(1, 2), ('time', 'memory'), ('s', 'MiB')):
        for number, row in enumerate(rows):
            pixels = [side * side / 1e6 for side in row['sides']]
            curve, macs = row['curves'][what], row['curves']['GMACs']
            label = f'{row["family"]}, {row["mode"]}: {row["exponents"][what]:.2f}'
            axes.loglog(pixels, curve, 'o-', ms=3, color=f'C{number}', label=label)
            scaled = [value * curve[0] / macs[0] for value in macs]
            axes.loglog(pixels, scaled, '--', lw=0.8, color=f'C{number}')
        axes.set_xlabel('megapixels')
        axes.set_ylabel(f'{what}, {unit}')
        axes.legend(fontsize=7)
    figure.suptitle('dashed: multiply-accumulates, scaled to the first point', fontsize=9)
    return figure


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


# ----------------------------------------------------------------------- main
def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('subject', nargs='?', help='config file or call')
    add('--against', nargs='+', default=[], metavar='PEER', help=', '.join([*SAME, *PEERS]))
    add('--suite', choices=SUITES, help='measure the bars of a suite: value, bar, pass or fail')
    add('--only', metavar='TEXT', help='bars of the suite, or families, with this in their title')
    add('--growth', action='store_true', help='time and memory against the number of pixels')
    add('--sides', nargs='+', type=int, default=[224, 448, 672, 896, 1120, 1344, 1600])
    add('--mode', nargs='+', choices=MODES, help='default: both; of --growth: forward')
    add('--size', nargs=2, type=int, default=[800, 1280], metavar=('H', 'W'))
    add('--batch', type=int, default=1)
    add('--dtype', choices=benchmark.DTYPES, default='fp32', help='16 bits: autocast')
    add('--compile', action='store_true', help='torch.compile with dynamic shapes, all contenders')
    add('--device', choices=('cpu', 'cuda'), default='cpu')
    add('--threads', type=int, help='threads of the CPU; default: as torch chooses, suite cpu: 2')
    add('--rounds', type=int, default=9, help='rounds that count')
    add('--warmups', type=int, default=5, help='rounds before them')
    add('--json', type=Path, metavar='FILE', help='write all figures')
    add('--plot', type=Path, metavar='FILE.png', help='draw them')
    add('--cfg-options', nargs='+', action=DictAction, help='change settings of the subject')
    args = parser.parse_args(argv)
    if sum([args.subject is not None, args.suite is not None, args.growth]) != 1:
        raise UserError('give one of: a subject, --suite, --growth')
    if min(args.rounds, args.batch, *args.size, *args.sides) < 1 or args.warmups < 0:
        raise UserError('--rounds, --batch, --size and --sides must be at least 1')
    if len({args.subject, *args.against}) <= len(args.against):
        raise UserError('--against: name each once, and not the subject')
    if args.compile and (part := sorted(set(args.against) & set(MEANS))):
        raise UserError(f'--against {part[0]}: parts are taken out of eager models only')
    if args.growth and len(set(args.sides)) < 2:
        raise UserError('--sides: an exponent needs two sizes')
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: torch finds no GPU')
    if args.suite == 'gpu' and args.device != 'cuda':
        raise UserError('--suite gpu needs --device cuda')
    return args


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write; status 1 if a bar of a suite is missed."""
    args = parse_args(argv)
    threads = args.threads or (2 if args.suite == 'cpu' else None)
    if threads:
        torch.set_num_threads(threads)
    setting = Setting(
        tuple(args.size),
        args.batch,
        args.dtype,
        args.compile,
        args.device,
        args.rounds,
        args.warmups,
    )
    report: dict[str, Any] = dict(setting=describe(args))
    if args.suite:
        report['bars'] = run_suite(args.suite, args.only, setting)
        figure = draw_suite(report['bars'])
    elif args.growth:
        names = [name for name in FAMILIES if not args.only or args.only in name]
        if not names:
            raise UserError(f"--only '{args.only}': families are {', '.join(FAMILIES)}")
        sides = sorted(set(args.sides))
        modes = args.mode or MODES[:1]
        report['growth'] = [grow(name, sides, mode, setting) for name in names for mode in modes]
        print_growth(report['growth'])
        figure = draw_growth(report['growth'])
    else:
        report['comparisons'] = []
        for mode in args.mode or MODES:
            found = compare(args.subject, args.against, setting, mode, args.cfg_options)
            print_comparison(found)
            report['comparisons'].append(found)
        figure = draw_comparisons(report['comparisons'])
    try:
        if args.json:
            args.json.write_text(json.dumps(report, indent=1))
        if args.plot:
            figure.savefig(args.plot, bbox_inches='tight')
    except (OSError, ValueError) as error:
        raise UserError(f'cannot write: {error}') from error
    if not all(bar['passed'] for bar in report.get('bars', [])):
        sys.exit(1)


if __name__ == '__main__':
    launch.run_tool(main)
