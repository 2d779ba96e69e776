"""What a test server wants: predictions of a set whose annotations are not public."""

import os
import os.path as osp
import shutil
from contextlib import contextmanager
from typing import Any, Iterable, Iterator, List

from mmengine.config import Config
from mmengine.dist import is_main_process

from ..datacheck.datasets import dicts_inside, find_datasets
from ..errors import UserError
from .devices import local_rank
from .outputs import check_output

# The metric that writes results, and how their file is called, by scope.
FORMATS = {'mmdet': ('CocoMetric', '.json'), 'mmseg': ('IoUMetric', '.zip')}


def submit(cfg: Config, path: str, inputs: Iterable[str]) -> None:
    """Let a test write results and compare them with nothing; its data need no annotations.

    Args:
        cfg: The config, after :func:`prepare`.
        path: The file to write: results in COCO's format, or a zip of label maps.
        inputs: Files that are read, beside the annotations that the config names.

    Raises:
        UserError: If there is no such format for the config, or the file cannot be written.
    """
    metric, suffix = FORMATS.get(cfg.get('default_scope'), ('', ''))
    evaluator = cfg.get('test_evaluator')
    kind = evaluator.get('type') if isinstance(evaluator, dict) else evaluator
    if not metric or str(kind).split('.')[-1] != metric:
        raise UserError(
            f'--submit: results are written by {" and ".join(m for m, _ in FORMATS.values())}, '
            f'but test_evaluator is {kind}: --out FILE.pkl saves the predictions of any model'
        )
    if not path.endswith(suffix):
        raise UserError(f'--submit {path}: what {metric} writes needs a name that ends in {suffix}')
    nodes = list(find_datasets(cfg, 'test_dataloader'))
    if len(nodes) != 1:
        raise UserError(f'--submit: test_dataloader has {len(nodes)} data sets: set one')
    check_output(path, [*inputs, *(_annotations(node) for node in dicts_inside(cfg._cfg_dict))])
    folder = _folder(path)
    if metric == 'CocoMetric':
        evaluator.update(ann_file=_annotations(nodes[0]), outfile_prefix=osp.join(folder, 'coco'))
    else:
        evaluator.update(output_dir=osp.join(folder, 'maps'))
        nodes[0].get('data_prefix', {}).pop('seg_map_path', None)
        for holder, key in ((nodes[0], 'pipeline'), (cfg, 'tta_pipeline')):
            if key in holder:
                holder[key] = _without_annotations(holder[key])
    evaluator.update(format_only=True)


@contextmanager
def submission(path: str) -> Iterator[None]:
    """Put the results of the test inside in their place, once all are there.

    Args:
        path: As for :func:`submit`.
    """
    folder = _folder(path)
    if local_rank() == 0:  # before the processes join
        shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
        if is_main_process():
            os.replace(_results(folder), path)
            print(f'results for a test server: {path}')
    finally:
        if is_main_process():
            shutil.rmtree(folder, ignore_errors=True)


def _folder(path: str) -> str:
    """Where the processes of a test put their results: beside the file, under a known name."""
    folder, name = osp.split(osp.abspath(path))
    return osp.join(folder, f'.partial-{name}')


def _results(folder: str) -> str:
    """The file for the server: of COCO, that with boxes and masks if there is one."""
    if osp.isdir(osp.join(folder, 'maps')):
        return shutil.make_archive(osp.join(folder, 'all'), 'zip', osp.join(folder, 'maps'))
    boxes, masks = (osp.join(folder, f'coco.{kind}.json') for kind in ('bbox', 'segm'))
    return masks if osp.exists(masks) else boxes


def _annotations(node: dict) -> str:
    """The annotation file that a part of a config names; '' where it names none."""
    path = node.get('ann_file') or ''
    return path if not path or '://' in path else osp.join(node.get('data_root') or '', path)


def _without_annotations(steps: Any) -> List[Any]:
    """A pipeline, or the lists that TestTimeAug combines, without LoadAnnotations."""
    kept: List[Any] = []
    for step in steps:
        if isinstance(step, (list, tuple)):
            step = _without_annotations(step)
            kept += [step] if step else []
        elif str(step.get('type')).split('.')[-1] != 'LoadAnnotations':
            if 'transforms' in step:
                step['transforms'] = _without_annotations(step['transforms'])
            kept.append(step)
    return kept
