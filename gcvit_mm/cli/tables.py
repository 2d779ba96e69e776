"""What training and tests end with: a table of the classes and of all."""

import contextlib
import importlib.util
import io
import sys
from functools import partial
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple
from unittest import mock

import numpy as np
from mmengine.config import Config
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from ..errors import UserError
from ..messages import printable

KINDS = {'bbox': 'box', 'segm': 'mask'}
FASTER = 'faster-coco-eval'


class Found(NamedTuple):
    """Figures in percent and their names: a value a class (NaN where there is none), or one."""

    classes: Sequence[str]
    figures: List[Tuple[str, np.ndarray]]
    digits: int = 1


class Evaluation:
    """Keeps by class what the metrics of mmdet and mmseg compute, which return the means alone.

    Args:
        metrics: The metrics of an evaluator.
        fast: Let faster-coco-eval compute COCO's.
    """

    def __init__(self, metrics: Iterable[Any], fast: bool = False) -> None:
        self.fast = fast
        self.kept: List[Found] = []
        for metric in metrics:
            if hasattr(sys.modules[type(metric).__module__], 'COCOeval'):
                metric.compute_metrics = partial(self._judge, metric, metric.compute_metrics)
            elif hasattr(metric, 'total_area_to_metrics'):
                compute = metric.total_area_to_metrics
                metric.total_area_to_metrics = partial(self._segments, metric, compute)

    def table(self, metrics: Optional[Dict[str, Any]]) -> str:
        """The table of what was found since the last one, or of the metrics; '' of nothing."""
        kept, self.kept = self.kept, []
        numbers = {k: v for k, v in (metrics or {}).items() if isinstance(v, (int, float))}
        if kept and all(found.classes == kept[0].classes for found in kept):
            return by_class(kept[0]._replace(figures=[each for f in kept for each in f.figures]))
        rows = [[name, f'{value:.4g}'] for name, value in numbers.items()]
        return drawn([['metric', 'value'], *rows]) if rows else ''

    def _judge(self, metric: Any, compute: Callable, results: list) -> Any:
        module: Any = sys.modules[type(metric).__module__]
        judge = keeping(fast_judge() if self.fast else module.COCOeval, self.kept)
        with mock.patch.object(module, 'COCOeval', judge):
            with contextlib.redirect_stdout(io.StringIO()):  # pycocotools says what it does
                return compute(results)

    def _segments(self, metric: Any, compute: Callable, *args: Any) -> Any:
        found = compute(*args)
        figures = [(name, np.asarray(values) * 100) for name, values in found.items()]
        figures.sort(key=lambda figure: figure[1].ndim, reverse=True)
        self.kept.append(Found(list(metric.dataset_meta['classes']), figures, digits=2))
        return found


def keeping(judge: Any, kept: List[Found]) -> type:
    """A class like pycocotools' ``COCOeval`` that adds what it finds to a list."""

    def summarize(self: Any) -> None:
        judge.summarize(self)
        if self.params.useCats and self.params.iouType in KINDS:
            kept.append(precisions(self))

    return type('COCOeval', (judge,), dict(summarize=summarize))


def precisions(judge: Any) -> Found:
    """AP by class of an object of pycocotools' ``COCOeval`` that has evaluated.

    The mean of a figure over the classes is what COCO reports.
    """
    params, found = judge.params, judge.eval['precision']
    # (IoU, recall, class, area, detections an image); -1 where there is nothing to find
    found = np.where(found > -1, found, np.nan) * 100
    hundred = params.maxDets.index(100) if 100 in params.maxDets else -1
    parts = {f'{KINDS[params.iouType]} AP': found[..., 0, hundred]}
    for name, iou in (('AP50', 0.5), ('AP75', 0.75)):
        parts[name] = found[np.isclose(params.iouThrs, iou)][..., 0, -1]
    for area, name in enumerate(('APs', 'APm', 'APl'), 1):
        parts[name] = found[..., area, -1]
    classes = [str(judge.cocoGt.cats[key]['name']) for key in params.catIds]
    return Found(classes, [(name, part.mean((0, 1))) for name, part in parts.items() if len(part)])


def by_class(found: Found) -> str:
    """A table with a row a class, and one of all."""

    def shown(value: float) -> str:
        return '-' if np.isnan(value) else f'{value:.{found.digits}f}'

    rows = [['class', *(name for name, _ in found.figures)]]
    for i, name in enumerate(found.classes):
        rows.append([name, *(shown(v[i]) if v.ndim else '' for _, v in found.figures)])
    known = [v[np.isfinite(v)] for _, v in found.figures]
    return drawn([*rows, ['all', *(shown(v.mean() if v.size else np.nan) for v in known)]])


def drawn(rows: List[List[str]], justify: JustifyMethod = 'right') -> str:
    """Rows as text, the first in the place of names of columns; ``justify`` all but the first."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for i, name in enumerate(rows[0]):
        table.add_column(name, justify=justify if i else 'left', no_wrap=True)
    for row in rows[1:]:
        table.add_row(*(Text(printable(cell)) for cell in row))
    file = io.StringIO()
    Console(file=file, width=1000).print(table)
    return '\n'.join(line.rstrip() for line in file.getvalue().splitlines())


def evaluate_fast(cfg: Config) -> None:
    """Let faster-coco-eval compute COCO's figures.

    Raises:
        UserError: If it is not there, or there are none in the config.
    """
    if cfg.get('default_scope') != 'mmdet':
        raise UserError('--fast-eval is for the AP of detectors: leave it out')
    need_package('--fast-eval', 'faster_coco_eval', FASTER)
    cfg.fast_eval = True


def need_package(option: str, module: str, package: str) -> None:
    """Check that a package is there which only an option needs.

    Raises:
        UserError: If it is not.
    """
    if importlib.util.find_spec(module) is None:
        raise UserError(f'{option} needs {package}, which is not installed: pip install {package}')


def fast_judge() -> Any:
    """faster-coco-eval's class with the summary of pycocotools, where AP is of 100 detections."""
    from faster_coco_eval import COCOeval_faster
    from pycocotools.cocoeval import COCOeval

    return type('COCOeval', (COCOeval_faster,), dict(summarize=COCOeval.summarize))
