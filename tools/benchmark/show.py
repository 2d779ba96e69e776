"""Tables and images of what was measured."""

from __future__ import annotations

import sys

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from .operators import Row


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


def print_operator(row: Row) -> None:
    """Print one operator: its time, that of the compiled one, and the ratio."""
    theirs = ratio = f'{"-":>9}'
    if row.theirs:
        theirs, ratio = f'{row.theirs * 1e3:9.1f}', f'{row.ours / row.theirs:9.2f}'
    print(
        f'{row.operator:24} {row.size:50} {row.ours * 1e3:9.1f} ms {theirs} ms {ratio}', flush=True
    )


def draw_operators(rows: list[dict]) -> Figure:
    """Draw times over those of the compiled operators."""
    compared = [row for row in rows if row['theirs']]
    figure = Figure(figsize=(9, 0.4 * len(compared) + 1), dpi=130, layout='constrained')
    axes = figure.subplots()
    names = [f'{row["operator"]}\n{row["size"]}' for row in compared]
    axes.barh(names, [row['ours'] / row['theirs'] for row in compared])
    axes.axvline(1, color='black', lw=0.8)
    axes.tick_params(axis='y', labelsize=5)
    axes.invert_yaxis()
    axes.set_xlabel("time over that of mmcv's compiled operator")
    return figure


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
