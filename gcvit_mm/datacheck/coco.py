"""What check-data asks of annotations in COCO format."""

import collections
import contextlib
import json
import math
import os.path as osp
from typing import Any, Dict, List, Tuple

from .datasets import dicts_inside
from .foreign.recognise import hint
from .report import Report, report_missing, some

# Said of objects that mmdet passes over.
LEFT_OUT = '(left out)'
BOXES_ONLY = (
    'without a mask (segmentation): add masks, or train on boxes alone, by masks = False in '
    'configs/templates/own_detection.py'
)
NO_MASK = 'whose segmentation is no list of polygons and no mask'
FAR = 100_000  # pixels; pycocotools counts every pixel of a border, in 32 bits


def read_coco(path: str, report: Report, annotated: bool = True, root: str = '') -> dict:
    """Read a file in COCO format, with or without annotations; empty where it is none.

    Args:
        path: The file.
        report: Takes what is wrong.
        annotated: Whether it must have annotations.
        root: The folder of the data, which may hold another format.
    """
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        fix = hint(path, root) or 'it must be JSON in COCO format'
        report.error(f'{path} cannot be read: {error}: {fix}')
        return {}
    parts = ('images', *(['annotations'] if annotated else []), 'categories')
    missing = set(parts) - set(content if isinstance(content, dict) else [])
    if missing:
        fix = hint(path, root) or 'it is not in COCO format'
        report.error(f'{path} has no {some(sorted(missing))}: {fix}')
        return {}
    for part in parts:
        rows = content[part]
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            report.error(f'{path}: its {part} are no list of dicts: it is not in COCO format')
            return {}
        keys = ('id', 'image_id', 'category_id') if part == 'annotations' else ('id',)
        for key in keys:
            odd = [row[key] for row in rows if not isinstance(row.get(key, 0), int)]
            if odd:
                report.error(
                    f'{path}: {part}: {key} is no whole number ({some(map(repr, odd))}): write '
                    'numbers, without quotes, in all that names it'
                )
                return {}
    return content


def check_categories(
    loader: str, path: str, categories: List[dict], classes: Any, report: Report
) -> None:
    """The config names the categories of the file, in their order."""
    names = [str(category.get('name')) for category in categories]
    absent = [name for name in classes if name not in names]
    order = [name for name in names if name in classes]
    fix = "set metainfo.classes to the names of the file's categories, in their order"
    if absent:
        report.error(f'{loader}: {path} has no category {some(absent)} ({some(names)}): {fix}')
    elif len(set(names)) < len(names):
        twice = [name for name, n in collections.Counter(names).items() if n > 1]
        report.error(f'{loader}: {path} has more than one category {some(twice)}')
    elif order != list(classes):
        # mmdet numbers labels by the file, and names them by the config
        report.error(f'{loader}: {path} has its categories in another order, {some(order)}: {fix}')
    left_out = [name for name in names if name not in classes]
    if left_out:
        report.warn(f'{loader}: {path}: categories left out: {some(left_out)}')


def check_coco(
    loader: str, dataset: Any, node: dict, report: Report, annotated: bool = True
) -> None:
    """Images and categories of a file in COCO format, and its boxes and masks if annotated."""
    path = dataset.ann_file
    content = read_coco(path, report, annotated, getattr(dataset, 'data_root', '') or '')
    if not content:
        return
    where = f'{loader}: {path}'
    images, categories = content['images'], content['categories']
    annotations = content['annotations'] if annotated else []
    check_categories(loader, path, categories, dataset.metainfo['classes'], report)
    for name, rows in (('image', images), ('annotation', annotations), ('category', categories)):
        counts = collections.Counter(row.get('id') for row in rows)
        twice = [key for key, count in counts.items() if count > 1 or key is None]
        if twice:
            report.error(f'{where}: {name} ids missing or not unique: {some(twice)}')
    bad = [row.get('id') for row in images if not is_image(row)]
    if bad:
        report.error(f'{where}: images without file_name, width or height: ids {some(bad)}')
        return
    folder = dataset.data_prefix.get('img', '')
    report_missing(where, [osp.join(folder, row['file_name']) for row in images], report)
    if not annotated:
        return
    masks = any(
        step.get('with_mask') for step in dicts_inside(node.get('pipeline')) if 'type' in step
    )
    needed = {'bbox', 'area', 'image_id', 'category_id'} | ({'segmentation'} if masks else set())
    sizes = {row.get('id'): (row['width'], row['height']) for row in images}
    known = {row.get('id') for row in categories}
    found: Dict[str, list] = collections.defaultdict(list)
    used: Dict[Any, List[bool]] = collections.defaultdict(list)
    boxes: List[Tuple[List[float], Tuple[float, float]]] = []
    for row in annotations:
        key = row.get('id')
        lacking = needed - set(row)
        if masks and not row.get('segmentation') and not row.get('iscrowd'):
            found[f'annotations {BOXES_ONLY}'].append(key)
        elif lacking:
            found[f'annotations without {some(sorted(lacking))}'].append(key)
        elif not is_listed(row['image_id'], sizes):
            found['annotations of an image that is not listed'].append(key)
        elif not is_listed(row['category_id'], known):
            found['annotations of an unknown category'].append(key)
        else:
            used[row['image_id']].append(bool(row.get('iscrowd')))
            boxes.append((row['bbox'], sizes[row['image_id']]))
            kind = box_flaw(row['bbox'], row['area'], *sizes[row['image_id']])
            if not kind and masks:
                kind = mask_flaw(row['segmentation'], *sizes[row['image_id']])
                kind = '' if NO_MASK in kind and row.get('iscrowd') else kind
            if kind:
                found[kind].append(key)
    for kind, keys in found.items():
        (report.error if kind.startswith('annotations') else report.warn)(
            f'{where}: {len(keys)} {kind}: ids {some(keys)}'
        )
    if not used:
        if not found:
            report.error(f'{where}: no objects at all')
        return
    if like_corners(boxes):
        report.error(
            f'{where}: the boxes look like two corners (x1, y1, x2, y2): write x, y, width, height'
        )
    if all(all(crowds) for crowds in used.values()):
        report.error(f'{where}: all objects are crowds, which nothing is learned from')
    if sum(map(len, used.values())) == sum(len(k) for name, k in found.items() if LEFT_OUT in name):
        report.error(f'{where}: all boxes lie outside of their images or are too small')
    for kind, keys in (
        ('without objects', [key for key in sizes if key not in used]),
        ('with crowds only', [key for key, crowds in used.items() if all(crowds)]),
    ):
        if keys:
            report.warn(f'{where}: {len(keys)} of {len(sizes)} images {kind}: ids {some(keys)}')


def like_corners(boxes: List[Tuple[List[float], Tuple[float, float]]]) -> bool:
    """Whether boxes are meant as two corners: all lie inside as such, and many do not as they are.

    Args:
        boxes: Four numbers each, and width and height of the image; few of them tell nothing.
    """
    beyond = 0
    for box, (width, height) in boxes:
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
            return False
        x, y, right, bottom = box
        if not (x < right <= width + 1 and y < bottom <= height + 1):
            return False
        beyond += x + right > width + 1 or y + bottom > height + 1
    return len(boxes) >= 10 and beyond >= len(boxes) / 10


def box_flaw(box: List[float], area: float, width: int, height: int) -> str:
    """What is wrong with a box, if anything.

    Args:
        box: x, y, width and height in pixels.
        area: Area of the object.
        width: Of the image.
        height: Of the image.
    """
    numbers = [*box, area] if isinstance(box, list) else []
    if len(numbers) != 5 or not all(is_number(value) for value in numbers):
        return 'annotations whose box is not four numbers'
    x, y, w, h = box
    if w < 1 or h < 1 or area <= 0:
        return f'boxes smaller than a pixel, or of no area {LEFT_OUT}'
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return f'boxes outside of their image {LEFT_OUT}'
    if x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1:
        return 'boxes beyond the border of their image'
    return ''


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    try:
        return isinstance(value, (int, float)) and math.isfinite(value)
    except OverflowError:  # of hundreds of digits
        return False


def is_listed(key: Any, known: Any) -> bool:
    """Whether an id is among the known; lists and the like are none."""
    return isinstance(key, (int, str, float)) and key in known


def is_image(row: dict) -> bool:
    """Whether a row of images names a file and its size."""
    size = [row.get(key) for key in ('width', 'height')]
    numbers = all(isinstance(value, (int, float)) and value > 0 for value in size)
    return numbers and isinstance(row.get('file_name'), str)


def are_numbers(values: list) -> bool:
    """Whether all are: at once where none of them can be something else."""
    if set(map(type, values)) <= {int, float}:
        with contextlib.suppress(OverflowError):
            if math.isfinite(sum(values)):  # it would not be with one that is not
                return True
    return all(map(is_number, values))


def mask_flaw(segmentation: Any, width: int, height: int) -> str:
    """What is wrong with a segmentation, if anything. pycocotools asks for none of it, and crashes.

    Args:
        segmentation: Polygons, or a run-length encoding.
        width: Of the image.
        height: Of the image.
    """
    if isinstance(segmentation, dict):
        if segmentation.get('size') not in ([height, width], (height, width)):
            return 'annotations whose run-length mask is not of the size of its image'
        counts = segmentation.get('counts')
        runs: Any = read_runs(counts) if isinstance(counts, (str, bytes)) else counts
        whole = isinstance(runs, list) and all(type(n) is int and n >= 0 for n in runs)
        if not whole or sum(runs) != width * height:
            return 'annotations whose run-length mask is damaged: its runs do not fill the image'
        return ''
    rings = segmentation if isinstance(segmentation, list) else []
    if not rings or not all(isinstance(ring, list) for ring in rings):
        return f'annotations {NO_MASK}'
    if not all(len(ring) >= 6 and len(ring) % 2 == 0 for ring in rings):
        return f'annotations {NO_MASK}'
    if not all(map(are_numbers, rings)):
        return f'annotations {NO_MASK}'
    if any(max(map(abs, ring)) > FAR for ring in rings):
        return f'annotations with corners of polygons more than {FAR} pixels away'
    return ''


def read_runs(text: Any) -> List[int]:
    """Lengths of the runs of a compressed mask, as COCO writes them.

    A number has five bits a character, the least first, and a sign; from the third on it is the
    difference from the number two before.
    """
    runs: List[int] = []
    value = shift = 0
    for code in text.encode('latin-1', 'replace') if isinstance(text, str) else text:
        code -= 48
        value |= (code & 31) << shift
        shift += 5
        if code & 32 and shift < 40:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
