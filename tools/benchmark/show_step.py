"""Tables and images of steps, part by part."""

from __future__ import annotations

import sys

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from rich.console import Console
from rich.table import Table

KINDS = dict(training='training step', forward='evaluation')
COLOURS = colormaps['tab20'].colors
COLUMNS = ('ms', 'share', 'GMACs', 'of product')


def described(found: dict) -> str:
    """What ran, in words."""
    shape = f'{found["batch"]}x3x{"x".join(map(str, found["size"] or ("H", "W")))}'
    pictures = found['pictures'] if found['size'] else f'read from {found["pictures"]}'
    return f'{KINDS[found["mode"]]}, {shape}, {pictures}, {found["dtype"]}'


def print_step(found: dict) -> None:
    """Print a table for each config."""
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    rate = found['product_gmacs_per_s']
    for name, row in found['rows'].items():
        lines = [f'{name}: {described(found)}']
        lines += [f'without the clock {in_ms(row["time"])} ms, {row["images_per_s"]:.3g} images/s']
        if 'ratio' in row:
            low, median, high = (row['ratio'][key] for key in ('low', 'median', 'high'))
            lines += [f'the first one takes {median:.2f} ({low:.2f}-{high:.2f}) of that']
        lines += [f'a product of matrices reaches {rate:.0f} GMACs/s']
        lines += [f'{row["objects"]} objects'] if 'objects' in row else []
        console.print(lines[0], '; '.join(lines[1:]), sep='\n', markup=False, soft_wrap=True)
        directions = (False, True) if found['mode'] == 'training' else (False,)
        console.print(table_of(row, rate, directions))


def table_of(row: dict, rate: float, directions: tuple) -> Table:
    """The table of one config.

    Args:
        row: Of :func:`benchmark.step.row_of`.
        rate: GMACs/s of a product of matrices.
        directions: Whether columns are those of backward passes, one after the other.
    """
    table = Table()
    table.add_column('')
    for backward in directions:
        for title in COLUMNS:
            title = f'backward: {title}' if backward and title == 'ms' else title
            table.add_column(title, justify='right')
    parts = {(part['name'], part['backward']): part for part in row['parts']}
    for name in dict.fromkeys(part['name'] for part in row['parts']):
        table.add_row(name, *(cell for b in directions for cell in cells(parts.get((name, b)))))
    table.add_section()
    sums = (whole_of([p for p in row['parts'] if p['backward'] is b], rate) for b in directions)
    table.add_row('all of them', *(cell for whole in sums for cell in cells(whole)))
    return table


def in_ms(time: dict) -> str:
    """Median and quartiles."""
    low, median, high = (time[key] * 1e3 for key in ('low', 'median', 'high'))
    return f'{median:.1f} ({low:.1f}-{high:.1f})'


def whole_of(parts: list[dict], rate: float) -> dict:
    """Several parts as one."""
    seconds, gmacs = (
        sum(values) for values in zip(*((p['time']['median'], p['gmacs']) for p in parts))
    )
    share = sum(part['share'] for part in parts)
    reached = gmacs / seconds / rate if gmacs else None
    return dict(time=dict(median=seconds), share=share, gmacs=gmacs, of_product=reached)


def cells(part: dict | None) -> list[str]:
    """What a table says of a part."""
    if part is None:
        return [''] * len(COLUMNS)
    found = [f'{part["time"]["median"] * 1e3:.1f}', f'{part["share"]:.1%}']
    if part['of_product'] is None:
        return [*found, '-', '-']
    return [*found, f'{part["gmacs"]:.2f}', f'{part["of_product"]:.0%}']


def draw_steps(steps: list[dict]) -> Figure:
    """Draw a bar for each config, a piece of it for each part; hatched: its backward pass."""
    names = dict.fromkeys(p['name'] for f in steps for r in f['rows'].values() for p in r['parts'])
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    bars = sum(len(found['rows']) for found in steps)
    size = (11, 0.7 * bars + 0.9 * len(steps) + 1.5)
    figure = Figure(figsize=size, dpi=130, layout='constrained')
    panels = figure.subplots(len(steps), 1, squeeze=False)[:, 0]
    for axes, found in zip(panels, steps):
        for number, row in enumerate(found['rows'].values()):
            start = 0.0
            for part in row['parts']:
                length = part['time']['median'] * 1e3
                axes.barh(
                    number,
                    length,
                    left=start,
                    color=colours[part['name']],
                    edgecolor='white',
                    linewidth=0.5,
                    hatch='///' if part['backward'] else None,
                )
                start += length
        axes.set_yticks(range(len(found['rows'])), list(found['rows']), fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel(f'ms: {described(found)}')
    patches = [Patch(color=colour, label=name) for name, colour in colours.items()]
    figure.legend(handles=patches, loc='outside lower center', ncols=3, fontsize=7)
    figure.suptitle('hatched: backward', fontsize=9)
    return figure
