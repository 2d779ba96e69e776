"""Draw the accuracy of the model zoo against FLOPs and parameters.

Accuracy is what the authors print, parameters and FLOPs are ours; configs/metafiles has both. A
task is the head and the schedule in the names of the configs.

Examples:
    python tools/plot_zoo.py                                     # ImageNet, as GC ViT, Figure 1
    python tools/plot_zoo.py --task mask_1x mask_3x --x flops --out mask.png
    python tools/plot_zoo.py --task cls_300e mask_1x upernet_160k --out zoo.png  # GPViT, Figure 2
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.transforms import Bbox
from model_zoo import DATA, INDEX, read_entries

from gcvit_mm.cli import run_tool, save_figure
from gcvit_mm.errors import UserError

FAMILIES = {  # in the names of configs: title, colour
    'gcvit': ('GC ViT', 'C0'),
    'scalablevit': ('ScalableViT', 'C1'),
    'gg': ('GG-Transformer', 'C2'),
    'ggdeit': ('GGDeiT', 'C4'),
    'gpvit': ('GPViT', 'C3'),
}
AXES = {'flops': 'multiply-accumulates (G)', 'parameters': 'parameters (M)'}
SOURCE = (
    "Accuracy: the authors' figures, none of them measured here. "
    'Parameters and multiply-accumulates: counted on our models.'
)
MARKER = 2.5  # radius in points
LOG_ABOVE = 5  # the largest value over the smallest
TICKS = (1, 1.5, 2, 3, 5, 7)  # of every power of ten
# Where a label may stand, in points: lines rise to the right, so above left or below right.
PLACES = [(-9, 9), (9, -9), (0, 11), (0, -11), (14, 0), (-14, 0), (9, 9), (-9, -9), (18, -6)]


class Model(NamedTuple):
    """One config with a published result."""

    family: str
    size: str  # of the model, e.g. 'T'
    image: str  # size at which the FLOPs are counted
    counts: dict  # by key of AXES
    published: dict


# ------------------------------------------------------------------- reading
def read_tasks(entries: dict) -> dict[str, list[Model]]:
    """Sort the configs by task."""
    tasks: dict[str, list[Model]] = {}
    for name, entry in entries.items():
        head, family, *size, schedule = name.split('_')
        published, metadata = entry['Published'], entry['Metadata']
        image = published.get('FLOPs at', DATA[metadata['Training Data']][0])
        counts = dict(flops=metadata['FLOPs'] / 1e9, parameters=metadata['Parameters'] / 1e6)
        model = Model(family, ' '.join(size).upper(), image, counts, published)
        tasks.setdefault(f'{head}_{schedule}', []).append(model)
    return tasks


def panels(tasks: dict, wanted: list[str], metrics: list[str] | None) -> list[tuple]:
    """Return task, metric and the models that have it, for every panel.

    Raises:
        UserError: If there is no such task, or nothing published for it.
    """
    known = [metric for _, _, names in DATA.values() for metric in names]
    found = []
    for task in wanted:
        if task not in tasks:
            raise UserError(f"--task: there is no '{task}': give some of {', '.join(tasks)}")
        for metric in metrics or known:
            models = [model for model in tasks[task] if metric in model.published]
            if models:
                found.append((task, metric, models))
    if not found:
        what = ' or '.join(metrics or ['result'])
        raise UserError(
            f'no {what} is published for {", ".join(wanted)}: metrics are {", ".join(known)}'
        )
    return found


# ------------------------------------------------------------------- drawing
def write_labels(axes: Axes, points: list[tuple]) -> None:
    """Write a label beside every point (x, y, text, colour) where it hides least."""
    dots = [axes.transData.transform(line.get_xydata()) for line in axes.lines]
    share = np.linspace(0, 1, 20)[:, None]
    lines = [a + share * (b - a) for xy in dots for a, b in zip(xy, xy[1:])]
    labels: list[Bbox] = []
    for x, y, text, colour in points:
        options: dict = dict(textcoords='offset points', ha='center', va='center')
        label = axes.annotate(text, (x, y), PLACES[0], color=colour, fontsize=8, **options)

        def hidden(place: tuple, label: Annotation = label) -> float:
            label.set_position(place)
            box = label.get_window_extent()
            texts = sum(box.overlaps(other) for other in labels)
            markers = sum(
                box.padded(MARKER * axes.figure.dpi / 72).count_contains(xy) for xy in dots
            )
            return 100 * texts + 10 * markers + sum(box.count_contains(xy) for xy in lines)

        label.set_position(min(PLACES, key=hidden))
        labels.append(label.get_window_extent())


def draw_panel(axes: Axes, models: list[Model], metric: str, x: str) -> list[tuple]:
    """Draw one metric against one axis, a line a family; return what is to be labelled."""
    axes.set_ylabel(f'{metric} (%)')
    axes.grid(color='#e6e6e6')
    axes.spines[['top', 'right']].set_visible(False)
    points = []
    for family, (title, colour) in FAMILIES.items():
        line = sorted(
            (m.counts[x], m.published[metric], m.size) for m in models if m.family == family
        )
        if line:
            xs, ys, _ = zip(*line)
            axes.plot(xs, ys, color=colour, marker='o', ms=2 * MARKER, lw=1, label=title)
            points += [(*point, colour) for point in line]
    images = ', '.join(dict.fromkeys(model.image for model in models))
    axes.set_xlabel(f'{AXES[x]} at {images}' if x == 'flops' else AXES[x])
    values = [model.counts[x] for model in models]
    if max(values) > LOG_ABOVE * min(values):
        axes.set_xscale('log')
        axes.xaxis.set_major_locator(LogLocator(subs=TICKS))
        axes.xaxis.set_major_formatter('{x:g}')
        axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(0.1)
    return points


def draw(found: list[tuple], xs: list[str]) -> Figure:
    """Draw a row a task and metric, a column an axis."""
    figure = Figure((5.5 * len(xs), 3.9 * len(found) + 0.8), dpi=130, layout='constrained')
    figure.suptitle(SOURCE, fontsize=8, x=0.01, ha='left')
    labels, legend = [], {}
    panels = figure.subplots(len(found), len(xs), squeeze=False)
    for row, (task, metric, models) in zip(panels, found):
        for axes, x in zip(row, xs):
            axes.set_title(task, loc='left', fontweight='bold', fontsize=10)
            labels.append((axes, draw_panel(axes, models, metric, x)))
            legend.update({line.get_label(): line for line in axes.lines})
    figure.legend(
        legend.values(), legend, loc='outside lower left', ncols=5, fontsize=8, frameon=False
    )
    figure.draw_without_rendering()  # what is where is known from here on
    for axes, points in labels:
        write_labels(axes, points)
    return figure


def main(argv: list[str] | None = None) -> None:
    """Draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--task', nargs='+', default=['cls_300e'], metavar='HEAD_SCHEDULE', help='e.g. mask_1x')
    add('--metric', nargs='+', help="e.g. 'mask AP'; default: all that are published")
    add('--x', nargs='+', choices=AXES, default=list(AXES), help='default: both')
    add('--out', type=Path, default='zoo.png', metavar='FILE.png', help='default zoo.png')
    args = parser.parse_args(argv)
    tasks = read_tasks(read_entries(INDEX))
    found = panels(tasks, args.task, args.metric)
    save_figure(draw(found, args.x), args.out)
    print(f'wrote {args.out}: {sum(len(models) for _, _, models in found)} results')


if __name__ == '__main__':
    run_tool(main)
