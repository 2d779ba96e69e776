"""Files, folders and class folders that a config names."""

import collections
import os
import os.path as osp
from typing import Any, List

from mmengine.config import Config

from ..errors import UserError
from .datasets import dicts_inside
from .foreign.recognise import hint
from .report import Report, some

# mmpretrain's data sets whose classes are the folders they lie in, unless a list is given.
CLASS_FOLDER_DATASETS = ('ImageNet', 'CustomDataset')


def check_data(cfg: Config, *loaders: str) -> None:
    """Check that what the datasets read is there, before anything is built.

    Args:
        cfg: The config.
        loaders: Which of its dataloaders to check, e.g. 'train_dataloader'.

    Raises:
        UserError: If a file or folder is missing.
    """
    for loader in loaders:
        for node in dicts_inside(cfg.get(loader) or {}):
            if not {'data_prefix', 'ann_file', 'split'} & set(node):
                continue
            root = node.get('data_root') or ''
            prefix = node.get('data_prefix') or node.get('split') or {}
            paths = [prefix] if isinstance(prefix, str) else list(prefix.values())
            for path in filter(None, [node.get('ann_file'), *paths]):
                annotations, path = path == node.get('ann_file'), osp.join(root, path)
                if '://' in path or (osp.isfile(path) if annotations else osp.exists(path)):
                    continue
                other = hint(root) if path.endswith('.json') or osp.isdir(path) else ''
                if osp.exists(path):
                    wrong, fix = 'is a folder', 'name a file of annotations in it'
                else:
                    wrong = 'does not exist'
                    fix = 'put the data there, or name its folder with --data-root or as '
                    fix += 'data_root of the config (docs/data.md)'
                raise UserError(
                    f'{loader}: {path} {wrong}' + (f', but {other}' if other else f': {fix}')
                )
            if node.get('type') in CLASS_FOLDER_DATASETS and paths:
                _check_class_folders(loader, node, osp.join(root, paths[0]))
        evaluator = loader.replace('dataloader', 'evaluator')
        for node in dicts_inside(cfg.get(evaluator) or {}):
            path = node.get('ann_file')
            if path and '://' not in path and not osp.isfile(path):
                root = str(cfg.get('data_root') or '')
                slashed = osp.join(root, path[len(root) :])
                if root and path.startswith(root) and osp.isfile(slashed):
                    raise UserError(
                        f"{evaluator}: {path} does not exist: end data_root with a slash, '{root}/'"
                    )
                raise UserError(
                    f'{evaluator}: {path} does not exist: name the annotations of {loader}'
                )


def _check_class_folders(loader: str, node: dict, folder: str) -> None:
    """Check that a classification data set without a list has one folder for every class.

    Raises:
        UserError: If it has none, or another number than the config has classes.
    """
    split = str(node.get('split'))
    listed = osp.join(node.get('data_root') or '', 'meta', f'{split}.txt')
    unlabelled = split == 'test' or node.get('with_label') is False
    if node.get('ann_file') or osp.exists(listed) or unlabelled or '://' in folder:
        return
    found = sum(entry.is_dir() for entry in os.scandir(folder))
    classes = (node.get('metainfo') or {}).get('classes')
    wanted = len(classes) if classes else {'ImageNet': 1000}.get(node['type'], found)
    if not found:
        raise UserError(
            f'{loader}: {folder} has no class folders: sort its images into one folder a class '
            '(docs/data.md says how)'
        )
    if found != wanted:
        raise UserError(
            f'{loader}: {folder} has {found} class folders, the config has {wanted} classes: '
            'name the classes and their number in the config (docs/data.md says how)'
        )


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
        report.warn(f'{where}: {len(empty)} classes without images: {some(empty)}')
