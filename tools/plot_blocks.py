"""Draw what one block costs against the size of the image and the channels (GPViT, Figure 5).

Blocks with group tokens, with attention among all tokens, in windows of 7 x 7 and in stripes two
tokens wide, each with its MLP, on maps of stride 8. Counted, not measured.

Examples:
    python tools/plot_blocks.py --out blocks.png --table blocks.csv
    python tools/plot_blocks.py --channels 96 192 384 768
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from gcvit_mm.cli import run_tool, save_figure, whole_output
from gcvit_mm.errors import UserError
from gcvit_mm.planning.blocks import BLOCKS, HEADS, Cost, count_blocks

CHANNELS = (216, 348, 432, 624)  # of GPViT-L1 to L4
SIDES = (224, 448, 672, 896, 1120, 1344, 1600)
SIZES = {'ImageNet': (224, 224), 'COCO': (800, 1280), 'ADE20K': (512, 2048)}
WIDTH = 348  # channels of the first panel, those of the paper
STYLES = dict(zip(BLOCKS, ('C3-', 'C3--', 'C3:', 'k-', 'C0-', 'C1-')))


def draw_panel(axes: Axes, costs: Sequence[Cost], x: str, title: str, label: str) -> None:
    """Draw the costs of all blocks against one of their fields."""
    for block, style in STYLES.items():
        line = sorted((getattr(cost, x), cost.gmacs) for cost in costs if cost.block == block)
        axes.plot(*zip(*line), style, marker='o', ms=3, lw=1.3, label=block)
    axes.set_yscale('log')
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter('{x:g}')
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_title(title, loc='left', fontsize=10)
    axes.set_xlabel(label)
    axes.grid(color='#e6e6e6')
    axes.spines[['top', 'right']].set_visible(False)


def draw(costs: Sequence[Cost]) -> Figure:
    """Draw against the side of a square image, then against the channels at three sizes."""
    figure = Figure((13, 4.2), dpi=130, layout='constrained')
    panels = figure.subplots(1, 1 + len(SIZES))
    squares = [c for c in costs if c.height == c.width and c.channels == WIDTH]
    draw_panel(panels[0], squares, 'width', f'{WIDTH} channels', 'side of the image (pixels)')
    for axes, (data, (height, width)) in zip(panels[1:], SIZES.items()):
        here = [c for c in costs if (c.height, c.width) == (height, width)]
        draw_panel(axes, here, 'channels', f'{data}, {height} x {width}', 'channels')
    panels[0].set_ylabel('multiply-accumulates of one block (G)')
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc='outside lower left', ncols=6, fontsize=9, frameon=False)
    return figure


def write_table(costs: Sequence[Cost], path: Path) -> None:
    """Write a row for every block, number of channels and size, as .csv or .json."""
    with whole_output(str(path)) as partial, open(partial, 'w', newline='') as file:
        if path.suffix == '.json':
            json.dump([cost._asdict() for cost in costs], file, indent=1)
        else:
            csv.writer(file).writerows([Cost._fields, *costs])


def main(argv: list[str] | None = None) -> None:
    """Count, draw, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--channels', nargs='+', type=int, default=CHANNELS, help='default: GPViT-L1 to L4')
    add('--sides', nargs='+', type=int, default=SIDES, help='of the images of the first panel')
    add('--out', type=Path, default='blocks.png', metavar='FILE.png', help='default blocks.png')
    add('--table', type=Path, metavar='FILE.csv|json', help='write all figures')
    args = parser.parse_args(argv)
    wrong = [dims for dims in args.channels if dims < 1 or dims % HEADS]
    if wrong:
        raise UserError(f'--channels {wrong[0]}: give multiples of the {HEADS} heads')
    if min(args.sides) < 1:
        raise UserError(f'--sides {min(args.sides)}: give sides of at least 1')
    if args.table and args.table.suffix not in ('.csv', '.json'):
        raise UserError(f'--table {args.table}: give a name that ends in .csv or .json')
    squares = [(side, side) for side in args.sides]
    costs = sorted(
        {
            *count_blocks([WIDTH], squares),
            *count_blocks(args.channels, list(SIZES.values())),
        },
        key=lambda cost: (list(BLOCKS).index(cost.block), cost[1:]),
    )
    save_figure(draw(costs), args.out)
    if args.table:
        write_table(costs, args.table)
    print(f'wrote {args.out}: {len(costs)} counts of {len(BLOCKS)} blocks')


if __name__ == '__main__':
    run_tool(main)
