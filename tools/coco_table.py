"""Show AP of boxes and masks, class by class, of predictions in COCO's format.

tools/test.py shows it at its end, and writes predictions with --cfg-options
test_evaluator.outfile_prefix=PREFIX.

Examples:
    python tools/coco_table.py data/coco/annotations/instances_val2017.json PREFIX
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from pathlib import Path

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from gcvit_mm.cli import run_tool
from gcvit_mm.cli.tables import KINDS, Found, by_class, precisions
from gcvit_mm.errors import UserError


def load(path: Path) -> list | dict:
    """Read a JSON file."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f'cannot read {path}: {error}') from error


def evaluate(truth: COCO, predictions: list, kind: str) -> Found:
    """Compute AP of boxes or masks."""
    found = COCO()
    if predictions:
        found = truth.loadRes(predictions)
    evaluation = COCOeval(truth, found, kind)
    evaluation.evaluate()
    evaluation.accumulate()
    return precisions(evaluation)


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
    predictions = {kind: load(path) for kind, path in files.items()}
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools says what it does
            truth.createIndex()
            found = [evaluate(truth, rows, kind) for kind, rows in predictions.items()]
    except (AssertionError, KeyError, TypeError) as error:
        text = f'{args.prefix} does not fit {args.annotations}: {type(error).__name__} {error}'
        raise UserError(text) from error
    print(by_class(Found(found[0].classes, [each for part in found for each in part.figures])))


if __name__ == '__main__':
    run_tool(main)
