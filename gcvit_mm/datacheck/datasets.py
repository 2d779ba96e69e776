"""What of a config speaks of data."""

from typing import Any, Iterator, Tuple

from mmengine.config import Config
from mmengine.registry import DATASETS

from ..errors import UserError
from ..messages import cannot_build, what_was_built

SCOPES = ('mmdet', 'mmseg', 'mmpretrain')
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# Heads whose classes are not those of the data: objectness, stuff.
OTHER_CLASSES = ('rpn_head', 'semantic_head')


def dicts_inside(node: Any) -> Iterator[dict]:
    """Walk all dicts inside nested dicts, lists and tuples."""
    if isinstance(node, dict):
        yield node
        for value in list(node.values()):
            yield from dicts_inside(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from dicts_inside(value)


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
