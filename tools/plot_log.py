"""Draw the losses and metrics of a work dir over the iterations.

Examples:
    python tools/plot_log.py work_dirs/mask_gcvit_t_1x
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gcvit_mm.cli import run_tool, save_figure
from gcvit_mm.errors import UserError

MAX_LINES = 8  # per panel
COLOURS = ['#222222', *(f'C{number}' for number in range(10))]
LABEL_GAP = 0.055  # least distance of two labels, as a share of the panel's height
LOG = '*/vis_data/scalars.json'


# ------------------------------------------------------------------- reading
def read_log(path: Path) -> tuple[dict, dict]:
    """Return the training and the validation rows of one run by iteration.

    mmengine counts the steps of validation in epochs, iterations or not at all, so a
    validation row gets the iteration of the training row before it, if it has no later one.
    """
    train, val, step = {}, {}, 0
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # cut short when the run was killed
            continue
        if 'lr' in row:
            step = row['step']
            train[step] = row
        else:
            val[max(step, row.get('step', 0))] = row
    return train, val


def load_rows(work_dir: Path) -> tuple[dict, dict]:
    """Join the runs of a work dir: a later run replaces what it trained again."""
    train, val = {}, {}
    for path in sorted(work_dir.glob(LOG)):  # their folders are named after the time
        new_train, new_val = read_log(path)
        if new_train:
            start = min(new_train)
            train = {**{step: train[step] for step in train if step < start}, **new_train}
            val = {**{step: val[step] for step in val if step < start}, **new_val}
    if not train:
        raise UserError(f'{work_dir} has no {LOG} with losses: name the work dir of a run')
    return train, val


def curves(rows: dict) -> dict[str, np.ndarray]:
    """Return an array of steps and values for every number of the rows."""
    points = {}
    for step, row in rows.items():
        for key, value in row.items():
            if math.isfinite(value):
                points.setdefault(key, []).append((step, value))
    return {key: np.array(pairs, float).T for key, pairs in points.items()}


def loss_curves(rows: dict) -> dict[str, np.ndarray]:
    """Return the losses, the total first and then the largest parts."""
    losses = {key: curve for key, curve in curves(rows).items() if 'loss' in key}
    keys = sorted(losses, key=lambda key: (key != 'loss', -losses[key][1, -1]))
    return {key: losses[key] for key in keys[:MAX_LINES]}


def metric_curves(rows: dict) -> dict[str, np.ndarray]:
    """Return the metrics in percent, without those of small, medium and large objects."""
    metrics = {}
    for key, (steps, values) in curves(rows).items():
        if key not in ('step', 'time', 'data_time') and not key.endswith(('_s', '_m', '_l')):
            scale = 100 if key.startswith('coco/') else 1  # COCO alone logs fractions
            metrics[key.split('/')[-1]] = np.array([steps, values * scale])
    return dict(list(metrics.items())[:MAX_LINES])


# ------------------------------------------------------------------- drawing
def smooth(values: np.ndarray) -> np.ndarray:
    """Return a moving mean over a twentieth of the values."""
    window = max(1, len(values) // 20)
    padded = np.pad(values, (window // 2, (window - 1) // 2), mode='edge')
    return np.convolve(padded, np.ones(window) / window, mode='valid')


def write_labels(axes: Axes, ends: list[tuple]) -> None:
    """Write name and last value right of the end of every line, none on another."""
    low, high = axes.get_ylim()
    last = -1.0
    for step, value, text, colour in sorted(ends, key=lambda end: end[1]):
        last = max((value - low) / (high - low), last + LABEL_GAP)
        axes.annotate(
            text,
            xy=(step, value),
            xytext=(1.03, last),
            textcoords='axes fraction',
            color=colour,
            fontsize=9,
            va='center',
            arrowprops=dict(arrowstyle='-', color=colour, lw=0.6, shrinkB=0, relpos=(0, 0.5)),
        )


def draw(train: dict, val: dict, title: str) -> Figure:
    """Draw the losses above and the metrics below."""
    figure = Figure(figsize=(10, 7.5), dpi=130)
    losses, metrics = figure.subplots(2, 1, sharex=True)
    losses.set_title(title, loc='left', fontweight='bold')
    losses.set_ylabel('loss')
    metrics.set_ylabel('metric (%)')
    metrics.set_xlabel('iteration')

    ends = []
    for colour, (key, (steps, values)) in zip(COLOURS, loss_curves(train).items()):
        mean = smooth(values)
        losses.plot(steps, values, color=colour, lw=0.9, alpha=0.25)
        losses.plot(steps, mean, color=colour, lw=2 if key == 'loss' else 1.3)
        ends.append((steps[-1], mean[-1], f'{key}  {mean[-1]:.3g}', colour))
    losses.set_ylim(bottom=0)
    write_labels(losses, ends)

    ends = []
    for colour, (key, (steps, values)) in zip(COLOURS[1:], metric_curves(val).items()):
        metrics.plot(steps, values, color=colour, lw=1.5, marker='o', ms=4)
        ends.append((steps[-1], values[-1], f'{key}  {values[-1]:.1f} %', colour))
    metrics.set_ylim(bottom=0)
    write_labels(metrics, ends)

    for axes in (losses, metrics):
        axes.set_xlim(0, max([*train, *val]))
        axes.grid(color='#e6e6e6')
        axes.spines[['top', 'right']].set_visible(False)
    return figure


def main(argv: list[str] | None = None) -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('work_dir', type=Path, help='work dir of the runs')
    parser.add_argument(
        '--out', type=Path, metavar='FILE.png', help='file to write; default WORK_DIR/curves.png'
    )
    args = parser.parse_args(argv)
    out = args.out or args.work_dir / 'curves.png'
    figure = draw(*load_rows(args.work_dir), args.work_dir.resolve().name)
    save_figure(figure, out)
    print(f'wrote {out}')


if __name__ == '__main__':
    run_tool(main)
