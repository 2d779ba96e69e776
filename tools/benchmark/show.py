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
    titles = ('', 'ms (quartiles)', 'images/s', 'ms/GMAC', 'MiB')
    for title in (*titles, 'time', 'memory', 'time/GMAC', 'differs'):
        table.add_column(title, justify='right' if title else 'left')
    for name, row in found['rows'].items():
        low, median, high = (row['time'][key] * 1e3 for key in ('low', 'median', 'high'))
        cells = [
            name,
            f'{median:.1f} ({low:.1f}-{high:.1f})',
            f'{row["images_per_s"]:.4g}',
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


def print_overhead(row: dict) -> None:
    """Print images/s with the checks and without, the ratio of their times, and the verdict."""
    verdict = 'pass' if row['passed'] else 'fail'
    print(
        f'{row["name"]}: {row["ours"]:.4g} images/s, {row["plain"]:.4g} without checks; time '
        f'{row["ratio"]:.3f} (at most {row["bar"]}: {verdict})',
        flush=True,
    )


def print_table_row(row: dict, first: bool) -> None:
    """Print a row of a paper's table; before the first one what the columns are."""
    columns = '{:16} {:>9} {:>6} {:>24} {:>10} {:>8} {:>12}'
    if first:
        how = f'{row["mode"]}, {row["dtype"]}, batch {row["batch"]}'
        print(f'{row["table"]}: ours with {how}; the paper: {row["paper_source"]}')
        paper = f'{row["paper_unit"]}, paper'
        titles = ('model', 'size', 'M', 'ms (quartiles)', 'images/s', 'MiB')
        print(columns.format(*titles, paper))
    ours = ['out of memory', '-', '-']
    if not row['out_of_memory']:
        low, median, high = (row['time'][key] * 1e3 for key in ('low', 'median', 'high'))
        memory = f'{row["memory_mib"]:.0f}' if 'memory_mib' in row else '-'
        ours = [f'{median:.1f} ({low:.1f}-{high:.1f})', f'{row["images_per_s"]:.4g}', memory]
    height, width = row['size']
    parameters = f'{row["parameters"]:.1f}' if 'parameters' in row else '-'
    paper = '-' if row['paper'] is None else row['paper']
    line = columns.format(row['model'], f'{height}x{width}', parameters, *ours, paper)
    print(line, flush=True)


def print_formats(rows: list[dict], size: tuple, threads: int) -> None:
    """Print the formats of a model; a problem stands in the place of what is missing."""
    metrics = list(dict.fromkeys(key for row in rows for key in row.get('metrics', {})))
    height, width = size
    table = Table(title=f'one image of {height}x{width}, {threads} threads; ratios: over torch')
    for title in ('', 'ms (quartiles)', 'ratio', 'MB', *metrics):
        table.add_column(title, justify='right' if title else 'left', overflow='fold')
    for row in rows:
        if 'time' not in row:
            table.add_row(row['name'])
            continue
        low, median, high = (row['time'][key] * 1e3 for key in ('low', 'median', 'high'))
        over = row.get('ratio')
        table.add_row(
            row['name'],
            f'{median:.0f} ({low:.0f}-{high:.0f})',
            f'{over["median"]:.2f} ({over["low"]:.2f}-{over["high"]:.2f})' if over else '-',
            f'{row["megabytes"]:.1f}',
            *(f'{row.get("metrics", {}).get(key, "-"):.4}' for key in metrics),
        )
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    for row in rows:
        if row['problem']:
            print(f'{row["name"]}: {row["problem"]}')


def draw_formats(rows: list[dict]) -> Figure:
    """Draw the time of each format over that of torch."""
    timed = [row for row in rows if 'ratio' in row]
    figure = Figure(figsize=(8, 0.4 * len(timed) + 1), dpi=130, layout='constrained')
    axes = figure.subplots()
    axes.barh([row['name'] for row in timed], [row['ratio']['median'] for row in timed])
    axes.axvline(1, color='black', lw=0.8)
    axes.invert_yaxis()
    axes.set_xlabel('time over that of torch')
    return figure


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


def in_unit(row: dict) -> float | str:
    """Our figure in the unit of the paper's; ms are those of one image."""
    if row['out_of_memory']:
        return 'out of memory'
    rate = row['images_per_s']
    return 1e3 / rate if row['paper_unit'] == 'ms' else rate


def draw_table(rows: list[dict]) -> Figure:
    """Draw our figures beside those of the paper, each on an axis of its own."""
    figure = Figure(figsize=(10, 0.3 * len(rows) + 1.3), dpi=130, layout='constrained')
    first = rows[0]
    figure.suptitle(first['table'], fontsize=10)
    ours, paper = figure.subplots(1, 2, sharey=True)
    for axes, values, colour in (
        (ours, [in_unit(row) for row in rows], 'C0'),
        (paper, [row['paper'] or 'none' for row in rows], '#999999'),
    ):
        lengths = [0 if isinstance(value, str) else value for value in values]
        axes.barh(range(len(rows)), lengths, color=colour)
        for y, (value, length) in enumerate(zip(values, lengths)):
            text = value if isinstance(value, str) else f'{value:.4g}'
            axes.text(length, y, f' {text}', va='center', fontsize=7)
        axes.set_xlim(0, 1.2 * max(lengths) or 1)
    names = ['{}  {}x{}  {}'.format(row['model'], *row['size'], row['mode']) for row in rows]
    ours.set_yticks(range(len(rows)), names, fontsize=7)
    ours.invert_yaxis()
    how = f'{first["device"]}, {first["dtype"]}, batch {first["batch"]}'
    ours.set_xlabel(f'{first["paper_unit"]}, ours ({how})')
    paper.set_xlabel(f'{first["paper_unit"]}, paper ({first["paper_source"]})')
    return figure
