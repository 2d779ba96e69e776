"""``python -m gcvit_mm convert-data SRC DST``: other people's annotations as COCO JSON."""

import argparse
import collections
import json
import os
import os.path as osp
import shutil
import sys
from types import SimpleNamespace
from typing import List

from ..datacheck.coco import check_coco
from ..datacheck.foreign.convert import Converted, Split, convert
from ..datacheck.foreign.recognise import NAMES
from ..datacheck.report import Report, some
from ..errors import UserError
from ..messages import printable
from .outputs import check_output, make_folder, whole_output
from .running import run_tool


def main(argv: List[str]) -> int:
    """Convert a data set; return 0, or 2 when what came out is no data to train on."""
    parser = argparse.ArgumentParser(
        prog='python -m gcvit_mm convert-data',
        description='Turn annotations of Pascal VOC, YOLO, LabelMe or VIA into COCO JSON, a file '
        'for each split. Images stay where they are.',
    )
    parser.add_argument('source', metavar='SRC', help='folder of the data, or a JSON file')
    parser.add_argument('target', metavar='DST', help='folder for train.json, val.json, ...')
    parser.add_argument('--format', choices=list(NAMES), help='instead of what is recognised')
    parser.add_argument('--classes', help='names in their order, with commas; leave others out')
    parser.add_argument('--attribute', help='which attribute of regions of VIA is their class')
    parser.add_argument(
        '--val-fraction', type=float, default=0.0, help='share of training images for val.json'
    )
    parser.add_argument('--seed', type=int, default=0, help='for choosing them (0)')
    parser.add_argument('--copy-images', action='store_true', help='copy images into DST')
    parser.add_argument('--overwrite', action='store_true', help='replace files in DST')
    args = parser.parse_args(argv)
    status = 0

    def run() -> None:
        nonlocal status
        if not 0 <= args.val_fraction < 1:
            raise UserError(f'--val-fraction {args.val_fraction}: choose a number from 0 to 1')
        if osp.exists(args.target) and not osp.isdir(args.target):
            raise UserError(f'{args.target} is a file: name a folder')
        classes = [name.strip() for name in (args.classes or '').split(',') if name.strip()]
        if len(set(classes)) < len(classes):
            raise UserError(f'--classes {args.classes}: a name stands twice: take it out')
        converted = convert(
            args.source,
            args.format or '',
            classes,
            args.attribute or '',
            args.val_fraction,
            args.seed,
            args.target,
        )
        for text in converted.warnings:
            print(printable(f'warning: {text}'))
        write(converted, args.target, args.copy_images, args.overwrite)
        report = Report()
        for name, split in converted.splits.items():
            check_split(converted, name, split, args, report)
        for text in report.warnings:
            print(printable(f'warning: {text}'))
        for text in report.errors:
            print(printable(f'error: {text}'), file=sys.stderr)
        if report.errors:
            status = 2
        else:
            print(settings(converted, args.target, args.copy_images))

    run_tool(run)
    return status


def folder_of(name: str, split: Split, target: str, copied: bool) -> str:
    """Where the images of a split lie: below the target if that is so, else the whole path."""
    if copied:
        return f'{name}/'
    below = osp.relpath(osp.realpath(split.folder), osp.realpath(target)).replace('\\', '/')
    return f'{split.folder}/' if below.startswith('..') else '' if below == '.' else f'{below}/'


def write(converted: Converted, target: str, copy: bool, overwrite: bool) -> None:
    """Write a file for every split, and the images with ``copy``; all is asked before.

    Raises:
        UserError: If something is there already, or would replace what was read.
    """
    copies = {}
    for name, split in converted.splits.items() if copy else ():
        for image in split.content['images']:
            source = osp.join(split.folder, image['file_name'])
            copies[osp.join(target, name, image['file_name'])] = source
    make_folder(target)
    inputs = {osp.realpath(path) for path in (*converted.inputs, *copies.values())}
    files = {osp.join(target, f'{name}.json'): split for name, split in converted.splits.items()}
    for path in (*files, *copies):
        if osp.realpath(path) in inputs:
            raise UserError(f'{path} would replace what is read: name another folder than {target}')
        if osp.lexists(path) and not overwrite:
            raise UserError(f'{path} exists: name another folder, or replace it with --overwrite')
    for path, source in copies.items():
        make_folder(osp.dirname(path))
        with whole_output(path) as partial:
            shutil.copyfile(source, partial)
    for path, split in files.items():
        replaced = osp.lexists(path)
        check_output(path, converted.inputs)
        with whole_output(path) as partial, open(partial, 'w', encoding='utf-8') as file:
            json.dump(split.content, file)
        print(printable(f'{"replaced" if replaced else "written"}: {path}: {counts(split)}'))


def counts(split: Split) -> str:
    """Images and objects of a split, in words."""
    rows = split.content['annotations']
    used = len({row['image_id'] for row in rows})
    objects = collections.Counter(row['category_id'] for row in rows)
    each = (f'{objects[row["id"]]} {row["name"]}' for row in split.content['categories'])
    images = len(split.content['images'])
    without = f' ({images - used} without objects)' if used < images else ''
    return f'{images} images{without}, {len(rows)} objects: {some(each, 10)}'


def check_split(
    converted: Converted, name: str, split: Split, args: argparse.Namespace, report: Report
) -> None:
    """Ask of a written file what check-data asks of annotations."""
    folder = osp.join(args.target, folder_of(name, split, args.target, args.copy_images))
    dataset = SimpleNamespace(
        ann_file=osp.join(args.target, f'{name}.json'),
        metainfo=dict(classes=converted.classes),
        data_prefix=dict(img=folder),
    )
    pipeline = [dict(type='LoadAnnotations', with_mask=converted.masks)]
    check_coco(name, dataset, dict(pipeline=pipeline), report)


def settings(converted: Converted, target: str, copied: bool) -> str:
    """What to write above the line of the template for detectors."""
    splits = converted.splits
    train = next((name for name in ('train', 'trainval') if name in splits), next(iter(splits)))
    val = next((name for name in ('val', 'test') if name in splits), train)
    lines = [
        f'{converted.form}: settings for a copy of configs/templates/own_detection.py:',
        f'data_root = {osp.normpath(target).replace(os.sep, "/") + "/"!r}',
        f'classes = {tuple(converted.classes)!r}',
    ]
    for key, name in (('train', train), ('val', val)):
        folder = folder_of(name, splits[name], target, copied)
        value = f"dict(ann_file='{name}.json', data_prefix=dict(img={folder!r}))"
        again = key == 'val' and name == train
        note = '  # no others: --val-fraction 0.2 sets some apart' if again else ''
        lines.append(f'{key} = {value}{note}')
    return '\n'.join([*lines, f'masks = {converted.masks}'])
