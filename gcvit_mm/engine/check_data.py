"""Looking at the data of a config before hours are spent on it.

``python -m gcvit_mm check-data CONFIG`` reads it all; tools/train.py and tools/test.py call
:func:`check_classes`, which asks what can be known in a moment.
"""

import argparse
import collections
import contextlib
import io
import os.path as osp
import sys
from typing import Any, Dict, List

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope

from ..errors import UserError
from . import launch
from .check_config import LOADERS, dicts_inside
from .data_coco import check_coco
from .data_pictures import paint, spread
from .data_report import (
    Report,
    build,
    find_datasets,
    head_classes,
    read_picture,
    report_missing,
    some,
)
from .explain import described
from .hooks import batch_size_advice

SCOPES = ('mmdet', 'mmseg', 'mmpretrain')
# MB of an annotation file that is still read in a moment.
SMALL_FILE = 50
# Pictures or label maps that are.
GLANCE = 8
IGNORED = 255


# ------------------------------------------------------------------ in a moment
def check_classes(cfg: Config, *loaders: str) -> None:
    """Check the data against heads and annotations, as far as that is quick.

    Heads are compared with the classes; annotation files that are not large are read, and a few
    label maps.

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
        for node in find_datasets(cfg, loader):
            dataset = build(node)
            path = getattr(dataset, 'ann_file', '')
            small = osp.isfile(path) and osp.getsize(path) < SMALL_FILE * 1e6
            if small if hasattr(dataset, 'COCOAPI') else hasattr(dataset, 'reduce_zero_label'):
                with contextlib.redirect_stdout(io.StringIO()):  # pycocotools' own words
                    check_dataset(cfg, loader, node, GLANCE, report)
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


# ------------------------------------------------------------------ segmentation
def check_maps(
    loader: str, dataset: Any, rows: List[dict], sample: List[dict], node: dict, report: Report
) -> None:
    """Every image has its label map, of its size, and the labels are classes."""
    where = f'{loader}: {dataset.data_prefix.get("seg_map_path")}'
    report_missing(where, [row['seg_map_path'] for row in rows], report)
    classes = len(dataset.metainfo['classes'])
    reduce = bool(dataset.reduce_zero_label)
    for step in dicts_inside(node.get('pipeline')):
        if step.get('type') == 'LoadAnnotations':
            own = step.get('reduce_zero_label')
            if own is not None and bool(own) != reduce:
                report.error(
                    f'{loader}: reduce_zero_label is {reduce} in the data set and {own} in '
                    'LoadAnnotations: set it in the data set only'
                )
    seen: set = set()
    for row in sample:
        labels = read_map(row['seg_map_path'])
        if labels is None:
            if osp.isfile(row['seg_map_path']):
                report.error(
                    f'{loader}: {row["seg_map_path"]} cannot be read: it is no picture, or damaged'
                )
            continue
        if labels.ndim != 2:
            report.error(
                f'{loader}: {row["seg_map_path"]} has colours: a label map has one byte '
                'a pixel, the number of its class'
            )
            continue
        image = read_picture(row['img_path'])
        if image is not None and image.shape[:2] != labels.shape:
            report.error(
                f'{loader}: {row["seg_map_path"]} has {labels.shape[::-1]} pixels, its '
                f'image {image.shape[1::-1]}'
            )
        values = set(np.unique(labels).tolist())
        seen |= values
        mapped = {(dataset.label_map or {}).get(value, value) for value in values}
        good = (
            set(range(int(reduce), classes + int(reduce))) | {IGNORED} | ({0} if reduce else set())
        )
        if mapped - good:
            report.error(
                f'{loader}: {row["seg_map_path"]} holds {some(sorted(mapped - good))}, beyond '
                f'{classes} classes{" from 1 up" if reduce else ""} and {IGNORED} (ignored)'
                + hint_zero(values, classes, reduce)
            )
    labels_seen = seen - {IGNORED}
    if sample and seen and not labels_seen - ({0} if reduce else set()):
        report.error(
            f'{loader}: no label in {len(sample)} maps but {some(sorted(seen))}, which are ignored'
        )
    if reduce and labels_seen and 0 not in seen and max(labels_seen) < classes:
        report.warn(
            f'{loader}: reduce_zero_label ignores 0, which none of {len(sample)} maps '
            'holds: should it be False?'
        )


def hint_zero(values: set, classes: int, reduce: bool) -> str:
    """What to set where the labels of a map begin at 1."""
    if not reduce and 0 not in values and max(values - {IGNORED}, default=0) == classes:
        return ': set reduce_zero_label=True if the classes begin at 1'
    return ': mark other pixels 255, or add classes'


def read_map(path: str) -> Any:
    """Read a label map as mmseg does, None where that fails."""
    if not osp.isfile(path):
        return None
    try:
        labels = mmcv.imread(path, flag='unchanged', backend='pillow')
        return labels[..., 0] if labels.ndim == 3 and labels.shape[2] == 1 else labels
    except Exception:  # Pillow raises all kinds of errors
        return None


# ------------------------------------------------------------------ classification
def check_folders(loader: str, dataset: Any, rows: List[dict], report: Report) -> None:
    """Class folders against the names of the classes, and that none is empty."""
    folders = list(getattr(dataset, 'folder_to_idx', None) or {})
    classes = list(dataset.metainfo.get('classes') or [])
    where = f'{loader}: {dataset.img_prefix}'
    if folders and set(folders) == set(classes) and folders != classes:
        report.error(
            f'{where}: class folders count in alphabetical order ({some(folders)}), the classes '
            f'of the config are in another ({some(classes)}): sort them'
        )
    counts = collections.Counter(row['gt_label'] for row in rows if 'gt_label' in row)
    beyond = [label for label in counts if classes and not 0 <= label < len(classes)]
    if beyond:
        report.error(f'{where}: labels {some(sorted(beyond))}, but {len(classes)} classes')
    empty = [name for i, name in enumerate(folders or classes) if counts and not counts[i]]
    if empty:
        report.warn(f'{where}: {len(empty)} classes without pictures: {some(empty)}')


# ------------------------------------------------------------------ pictures
def check_pictures(where: str, rows: List[dict], report: Report) -> None:
    """Pictures can be read, and are as large as their annotations say."""
    for row in rows:
        path = row['img_path']
        if not osp.isfile(path):
            continue  # counted as missing
        image = read_picture(path)
        if image is None:
            report.error(f'{where}: {path} cannot be read: it is no picture, or damaged')
        elif 'height' in row and (row['height'], row['width']) != image.shape[:2]:
            report.error(
                f'{where}: {path} has {image.shape[1]} x {image.shape[0]} pixels, its annotation '
                f'{row["width"]} x {row["height"]}'
            )


# ------------------------------------------------------------------ all of it
def check(cfg: Config, samples: int, out_dir: str, gpus: int = 1) -> Report:
    """Check the data of a config.

    Args:
        cfg: The config.
        samples: Pictures and label maps to read in every data set.
        out_dir: Where the painted pictures go.
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
                path = paint(cfg, loader, out_dir, report)
                if path:
                    print(f'painted: {path}')
    return report


def check_dataset(cfg: Config, loader: str, node: dict, samples: int, report: Report) -> Any:
    """Check one data set; return the names of its classes."""
    try:
        launch.check_data(Config(dict({loader: node})), loader)
        dataset = build(node)
        coco = hasattr(dataset, 'COCOAPI')
        if coco:
            before = len(report.errors)
            check_coco(loader, dataset, node, report)
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
        report.error(f'{loader}: no pictures found')
    sample = spread(rows, samples)
    check_pictures(loader, sample, report)
    if cfg.default_scope == 'mmseg':
        check_maps(loader, dataset, rows, sample, node, report)
    elif cfg.default_scope == 'mmpretrain':
        check_folders(loader, dataset, rows, report)
    return classes


def main(argv: List[str]) -> int:
    """Check the data of a config; return 0, or 2 when there are errors."""
    parser = argparse.ArgumentParser(
        prog='python -m gcvit_mm check-data', description='Look at the data before training.'
    )
    launch.add_config_arguments(parser)
    parser.add_argument('--data-root', help='folder of the data, instead of the one in the config')
    parser.add_argument('--out-dir', default='work_dirs/check_data', help='for painted samples')
    parser.add_argument('--samples', type=int, default=50, help='pictures to read a split (50)')
    parser.add_argument('--gpus', type=int, default=1, help='processes to train with (1)')
    args = parser.parse_args(argv)
    status = 0

    def run() -> None:
        nonlocal status
        cfg = launch.load_config(args.config, args.cfg_options)
        if args.data_root:
            launch.replace_data_root(cfg, args.data_root)
        if cfg.get('default_scope') not in SCOPES:
            raise UserError(f'{args.config} is no config of a detector, segmentor or classifier')
        init_default_scope(cfg.default_scope)
        report = check(cfg, args.samples, args.out_dir, args.gpus)
        for text in report.warnings:
            print(f'warning: {text}')
        for text in report.errors:
            print(f'error: {text}', file=sys.stderr)
        print(f'{len(report.errors)} errors, {len(report.warnings)} warnings')
        status = 2 if report.errors else 0

    launch.run_tool(run)
    return status
