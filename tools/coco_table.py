"""Show AP and AP50 of boxes and masks, class by class, of predictions in COCO's format.

tools/test.py writes them with --cfg-options test_evaluator.outfile_prefix=PREFIX.

Examples:
    python tools/coco_table.py data/coco/annotations/instances_val2017.json PREFIX
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console
from rich.table import Table

from gcvit_mm.cli import run_tool
from gcvit_mm.errors import UserError

KINDS = {'bbox': 'box', 'segm': 'mask'}


def load(path: Path) -> list | dict:
    """Read a JSON file."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f'cannot read {path}: {error}') from error


def average_precisions(truth: COCO, predictions: list, kind: str) -> np.ndarray:
    """Return AP and AP50 in percent, shaped (2, classes); NaN where a class has no objects."""
    if not predictions:
        objects = np.array([len(truth.getAnnIds(catIds=c)) for c in sorted(truth.cats)])
        return np.broadcast_to(np.where(objects > 0, 0.0, np.nan), (2, len(objects)))
    evaluation = COCOeval(truth, truth.loadRes(predictions), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    # (IoU, recall, class, area, detections an image); -1 where there is nothing to find
    precision = evaluation.eval['precision'][:, :, :, 0, -1]
    precision = np.where(precision > -1, precision, np.nan) * 100
    return np.stack([precision.mean((0, 1)), precision[0].mean(0)])


def table(truth: COCO, found: dict[str, list]) -> Table:
    """Return a row for every class and one for all, columns for boxes and masks."""
    out = Table()
    out.add_column('class')
    columns = []
    for kind, predictions in found.items():
        for name, values in zip(('AP', 'AP50'), average_precisions(truth, predictions, kind)):
            out.add_column(f'{KINDS[kind]} {name}', justify='right')
            columns.append([*values, np.nanmean(values) if np.isfinite(values).any() else np.nan])
    names = [truth.cats[c]['name'] for c in sorted(truth.cats)]
    for name, *values in zip([*names, 'all'], *columns):
        style = 'bold' if name == 'all' else None
        cells = ['-' if np.isnan(value) else f'{value:.1f}' for value in values]
        out.add_row(name, *cells, style=style, end_section=name == names[-1])
    return out


def main(argv: list[str] | None = None) -> None:
    """Show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('annotations', type=Path, help='annotation file')
    parser.add_argument('prefix', help='files are PREFIX.bbox.json and PREFIX.segm.json')
    args = parser.parse_args(argv)
    files = {kind: Path(f'{args.prefix}.{kind}.json') for kind in KINDS}
    files = {kind: path for kind, path in files.items() if path.exists()}
    if not files:
        raise UserError(f'there is no {args.prefix}.bbox.json: name what outfile_prefix was')
    truth = COCO()
    truth.dataset = load(args.annotations)
    found = {kind: load(path) for kind, path in files.items()}
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools says what it does
            truth.createIndex()
            result = table(truth, found)
    except (AssertionError, KeyError, TypeError) as error:
        text = f'{args.prefix} does not fit {args.annotations}: {type(error).__name__} {error}'
        raise UserError(text) from error
    Console().print(result)


if __name__ == '__main__':
    run_tool(main)
