"""What check-data finds, and what of a config it looks at."""

import os
import os.path as osp
from typing import Any, Iterator, List, Tuple

import mmcv
from mmengine.config import Config
from mmengine.registry import DATASETS

from ..errors import UserError
from .explain import cannot_build, what_was_built

# Heads whose classes are not those of the data: objectness, stuff.
OTHER_CLASSES = ('rpn_head', 'semantic_head')


class Report:
    """Findings, one line each.

    Attributes:
        errors: What will fail, or teach the model something wrong.
        warnings: What is left out, or strange.
    """

    def __init__(self) -> None:
        self.errors: List[str] = []
        self.warnings: List[str] = []

    def error(self, text: str) -> None:
        """Add an error."""
        self.errors.append(text)

    def warn(self, text: str) -> None:
        """Add a warning."""
        self.warnings.append(text)


def some(things: Any, count: int = 3) -> str:
    """The first few of some things, and how many more there are."""
    things = list(things)
    more = f' and {len(things) - count} more' if len(things) > count else ''
    return ', '.join(str(thing) for thing in things[:count]) + more


def read_picture(path: str) -> Any:
    """Read a picture as the pipelines do, None where that fails."""
    try:
        return mmcv.imread(path)
    except Exception:  # the decoders raise all kinds of errors
        return None


def room_for_text(height: int, width: int) -> dict:
    """Option of mmpretrain's visualizer that enlarges small pictures, but no strip a pixel high."""
    short, long = min(height, width), max(height, width)
    side = min(224, 2240 * short // long)
    return dict(resize=side) if side > short else {}


def report_missing(where: str, paths: List[str], report: Report) -> None:
    """Which files are not there, looking once into every folder."""
    there = {
        folder: set(os.listdir(folder or '.')) if osp.isdir(folder or '.') else set()
        for folder in {osp.dirname(path) for path in paths}
    }
    missing = [p for p in paths if osp.basename(p) not in there[osp.dirname(p)]]
    if missing:
        report.error(f'{where}: {len(missing)} of {len(paths)} files are missing: {some(missing)}')


def find_datasets(cfg: Config, loader: str) -> Iterator[dict]:
    """The data sets of a loader, inside whatever wraps them."""
    nodes = [(cfg.get(loader) or {}).get('dataset')]
    while nodes:
        node = nodes.pop(0)
        if isinstance(node, dict) and ('dataset' in node or 'datasets' in node):
            nodes += [node.get('dataset'), *(node.get('datasets') or [])]
        elif isinstance(node, dict) and {'ann_file', 'data_prefix', 'data_root', 'split'} & {*node}:
            yield node


def build(node: dict) -> Any:
    """Build a data set without reading its annotations.

    Raises:
        UserError: If its config does not fit.
    """
    try:
        return DATASETS.build({**node, 'lazy_init': True})
    except Exception as error:  # whatever a data set of the config's choice may raise
        built = what_was_built(error) or node.get('type')
        raise UserError(cannot_build(str(built), error)) from error


def head_classes(node: Any, path: str = 'model') -> Iterator[Tuple[str, int]]:
    """Every ``num_classes`` of a model's config, with its path."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == 'num_classes' and value is not None:
                yield f'{path}.{key}', value
            elif key not in OTHER_CLASSES:
                yield from head_classes(value, f'{path}.{key}')
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from head_classes(value, f'{path}.{i}')
