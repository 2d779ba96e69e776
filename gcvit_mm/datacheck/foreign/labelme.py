"""LabelMe: a JSON file for every image. Its masks (of single pixels) count as their boxes."""

import os.path as osp
from typing import Any, Dict, List, Optional, Tuple

from .files import Files, read_json, reading
from .objects import Annotated, Notes, Thing, ellipse, number, points

NAME = 'LabelMe'


def is_labelme(content: Any) -> bool:
    """Whether the content of a JSON file is LabelMe's."""
    return isinstance(content, dict) and isinstance(content.get('shapes'), list)


def read(files: Files, sources: List[str], notes: Notes) -> List[Annotated]:
    """Read the JSON files of a data set."""
    rows = []
    for path in sources:
        content = read_json(path, NAME)
        if not is_labelme(content):
            notes.add('JSON files are none of LabelMe (passed over)', path)
            continue
        with reading(path, NAME):
            stated = str(content.get('imagePath') or '')
            image = osp.join(osp.dirname(path), stated.replace('\\', '/'))
            image = image if stated and osp.isfile(image) else files.image_of(path, stated)
            if not image:
                notes.add('annotated images are missing (left out)', path)
                continue
            sides = [content.get(f'image{side}') for side in ('Width', 'Height')]
            size = (int(number(sides[0])), int(number(sides[1]))) if all(sides) else None
            row = Annotated(image, path, read_shapes(content['shapes'], path, notes), size)
        row.splits = {files.split_of(path) or files.split_of(image)}
        rows.append(row)
    return rows


def read_shapes(shapes: List[dict], path: str, notes: Notes) -> List[Thing]:
    """The objects of a file; polygons of one class and one group are one object."""
    things: List[Thing] = []
    groups: Dict[Tuple[str, Any], int] = {}
    for shape in shapes:
        label = str(shape['label']).strip()
        thing = read_shape(label, shape)
        if thing is None:
            notes.add(f'shapes of type {shape["shape_type"]} have no area (left out)', path)
            continue
        if shape.get('shape_type') == 'mask':
            notes.add('masks of single pixels (their boxes are taken)', path)
        key = (label, shape.get('group_id'))
        if key[1] is not None and thing.outline and key in groups:
            whole = things[groups[key]]
            things[groups[key]] = whole._replace(outline=whole.outline + thing.outline)
            continue
        if key[1] is not None and thing.outline:
            groups[key] = len(things)
        things.append(thing)
    return things


def read_shape(label: str, shape: dict) -> Optional[Thing]:
    """A shape as an object; None for points and lines."""
    kind = shape.get('shape_type') or 'polygon'
    ring = points(shape['points'])
    if kind in ('rectangle', 'mask'):
        xs, ys = [x for x, _ in ring], [y for _, y in ring]
        return Thing(label, (min(xs), min(ys), max(xs), max(ys)))
    if kind == 'circle':
        (x, y), (on_x, on_y) = ring
        radius = ((on_x - x) ** 2 + (on_y - y) ** 2) ** 0.5
        return Thing(label, outline=(ellipse(x, y, radius, radius),))
    if kind in ('polygon', 'oriented_rectangle'):
        return Thing(label, outline=(ring,))
    if kind in ('point', 'points', 'line', 'linestrip'):
        return None
    raise ValueError(f'unknown shape_type {kind}')
