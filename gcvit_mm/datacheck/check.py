"""Looking at the data of a config before hours are spent on it.

``python -m gcvit_mm check-data CONFIG`` reads it all; tools/train.py and tools/test.py call
:func:`check_classes`, which asks what can be known in a moment.
"""

import contextlib
import io
import os.path as osp
from typing import Any, Dict, List

from mmengine.config import Config
from mmengine.registry import init_default_scope

from ..engine.monitoring import batch_size_advice
from ..errors import UserError
from ..messages import described
from .coco import check_coco
from .datasets import LOADERS, SCOPES, build, find_datasets, head_classes
from .drawing import draw, spread
from .folders import check_data, check_folders
from .images import check_images
from .label_maps import check_maps
from .report import Report, report_missing, some

# MB of an annotation file that is still read in a moment.
SMALL_FILE = 50
# Images or label maps that are.
GLANCE = 8


def check_classes(cfg: Config, *loaders: str) -> None:
    """Check the data against heads and annotations, as far as that is quick.

    Heads are compared with the classes; annotation files that are not large are read, and a few
    label maps. A set whose results are only written, by a metric with ``format_only``, need not
    have annotations: its images and categories are looked at.

    Args:
        cfg: The config.
        loaders: Which of its dataloaders to check.

    Raises:
        UserError: With what does not fit in the first loader where something does not.
    """
    if cfg.get('default_scope') not in SCOPES:
        return
    report = Report()
    init_default_scope(cfg.default_scope)
    for loader in loaders:
        evaluator = cfg.get(loader.replace('dataloader', 'evaluator'))
        annotated = not (isinstance(evaluator, dict) and evaluator.get('format_only'))
        for node in find_datasets(cfg, loader):
            dataset = build(node)
            path = getattr(dataset, 'ann_file', '')
            small = osp.isfile(path) and osp.getsize(path) < SMALL_FILE * 1e6
            if small if hasattr(dataset, 'COCOAPI') else hasattr(dataset, 'reduce_zero_label'):
                with contextlib.redirect_stdout(io.StringIO()):  # pycocotools' own words
                    check_dataset(cfg, loader, node, GLANCE, report, annotated)
            else:
                check_heads(cfg, loader, dataset.metainfo.get('classes'), report)
        if report.errors:
            raise UserError(
                '; '.join(report.errors[:3])
                + f' ({len(report.errors)} errors: python -m gcvit_mm check-data says more)'
            )


def check_heads(cfg: Config, loader: str, classes: Any, report: Report) -> None:
    """Every head has as many classes as the data."""
    if not classes:
        return
    wrong = [(path, n) for path, n in head_classes(cfg.model) if n != len(classes)]
    if wrong:
        listed = some((f'{path}={n}' for path, n in wrong), 5)
        report.error(
            f'{loader}: {len(classes)} classes ({some(classes)}), but {listed}: set num_classes '
            f'to {len(classes)}, or the classes of the data'
        )


def check(cfg: Config, samples: int, out_dir: str, gpus: int = 1) -> Report:
    """Check the data of a config.

    Args:
        cfg: The config.
        samples: Images and label maps to read in every data set.
        out_dir: Where the drawn images go.
        gpus: Processes that it will be trained with.

    Returns:
        All that was found.
    """
    report = Report()
    done: List[Any] = []
    names: Dict[str, Any] = {}
    for loader in LOADERS:
        for node in find_datasets(cfg, loader):
            if node not in done:  # testing on the validation set is usual
                done.append(node)
                names[loader] = check_dataset(cfg, loader, node, samples, report)
    known = {loader: tuple(classes) for loader, classes in names.items() if classes}
    if len(set(known.values())) > 1:
        report.error(
            'the classes differ: ' + '; '.join(f'{k}: {some(v)}' for k, v in known.items())
        )
    advice = batch_size_advice(cfg, gpus)
    if advice:
        report.warn(advice)
    if not report.errors:
        for i, loader in enumerate(LOADERS):
            if cfg.get(loader) and cfg[loader] not in [cfg.get(name) for name in LOADERS[:i]]:
                path = draw(cfg, loader, out_dir, report)
                if path:
                    print(f'drawn: {path}')
    return report


def check_dataset(
    cfg: Config, loader: str, node: dict, samples: int, report: Report, annotated: bool = True
) -> Any:
    """Check one data set, which must be annotated or not; return the names of its classes."""
    try:
        check_data(Config(dict({loader: node})), loader)
        dataset = build(node)
        coco = hasattr(dataset, 'COCOAPI')
        if coco:
            before = len(report.errors)
            check_coco(loader, dataset, node, report, annotated)
            check_heads(cfg, loader, dataset.metainfo.get('classes'), report)
            if len(report.errors) > before:
                return dataset.metainfo.get('classes')
        rows = dataset.load_data_list()
    except UserError as error:
        report.error(str(error))
        return None
    except Exception as error:  # whatever a data set of the config's choice may raise
        report.error(f'{loader}: its data cannot be read: {described(error)}')
        return None
    classes = dataset.metainfo.get('classes')
    if not coco:
        check_heads(cfg, loader, classes, report)
        report_missing(loader, [row['img_path'] for row in rows], report)
    if not rows:
        report.error(f'{loader}: no images found')
    sample = spread(rows, samples)
    check_images(loader, sample, report)
    if cfg.default_scope == 'mmseg' and annotated:
        check_maps(loader, dataset, rows, sample, node, report)
    elif cfg.default_scope == 'mmpretrain':
        check_folders(loader, dataset, rows, report)
    return classes
