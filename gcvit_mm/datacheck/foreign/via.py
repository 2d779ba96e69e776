"""VGG Image Annotator 2 (VIA): one JSON file for many images."""

import os.path as osp
from typing import Any, Dict, List, Sequence

from ...errors import UserError
from ..report import some
from .files import Files, base, read_json, reading
from .objects import Annotated, Notes, Thing, ellipse, number, points

NAME = 'VIA'


def is_via(content: Any) -> bool:
    """Whether the content of a JSON file is a project or an export of VIA 2."""
    rows = content.get('_via_img_metadata', content) if isinstance(content, dict) else None
    return isinstance(rows, dict) and all(
        isinstance(row, dict) and {'filename', 'regions'} <= set(row) for row in rows.values()
    )


def read(
    files: Files, sources: List[str], notes: Notes, attribute: str = '', classes: Sequence[str] = ()
) -> List[Annotated]:
    """Read the JSON files of a data set.

    Args:
        files: The files of it.
        sources: Those of VIA.
        notes: Takes what is left out.
        attribute: Which attribute of the regions is their class; '' where there is one only.
        classes: One name for all where regions have no attribute.
    """
    contents: Dict[str, List[dict]] = {}
    for path in sources:
        content = read_json(path, NAME)
        if not is_via(content):
            raise UserError(f'{path} is no JSON of VIA 2: export annotations as JSON there')
        with reading(path, NAME):
            contents[path] = list(content.get('_via_img_metadata', content).values())
            for entry in contents[path]:
                regions = entry['regions']  # older releases write a dict
                entry['regions'] = list(regions.values() if isinstance(regions, dict) else regions)
    attribute = attribute or find_attribute(contents)
    rows: List[Annotated] = []
    for path, entries in contents.items():
        with reading(path, NAME):
            for entry in entries:
                image = image_of(entry['filename'], path, files)
                if not image:
                    notes.add('annotated images are missing (left out)', entry['filename'])
                    continue
                things = []
                for region in entry['regions']:
                    label = label_of(region, attribute, classes)
                    thing = read_region(label, region['shape_attributes'])
                    if not label:
                        notes.add('regions have no class (left out)', image)
                    elif thing is None:
                        kind = region['shape_attributes']['name']
                        notes.add(f'regions of type {kind} have no area (left out)', image)
                    else:
                        things.append(thing)
                row = Annotated(image, path, things)
                row.splits = {files.split_of(image) or files.split_of(path)}
                rows.append(row)
    return rows


def image_of(name: str, path: str, files: Files) -> str:
    """The image of an entry: beside the JSON file, or the nearest of that name."""
    place = osp.join(osp.dirname(path), name.replace('\\', '/'))
    if osp.isfile(place):
        return place
    found = [image for image in files.by_stem.get(osp.splitext(base(name))[0], [])
             if base(image) == base(name)]  # fmt: skip
    near = osp.abspath(path)
    return max(found, key=lambda f: len(osp.commonpath([near, osp.abspath(f)])), default='')


def find_attribute(contents: Dict[str, List[dict]]) -> str:
    """The one attribute that regions have; '' where they have none.

    Raises:
        UserError: If they have several.
    """
    names = {}
    for path, entries in contents.items():
        with reading(path, NAME):
            for entry in entries:
                for region in entry['regions']:
                    names.update(dict.fromkeys(region.get('region_attributes') or {}))
    if len(names) > 1:
        raise UserError(
            f'{some(contents)}: regions have attributes {some(names, 9)}: name the one that is the '
            'class with --attribute'
        )
    return next(iter(names), '')


def label_of(region: dict, attribute: str, classes: Sequence[str]) -> str:
    """The class of a region, '' where it has none."""
    if not attribute:
        return classes[0] if len(classes) == 1 else 'object'
    value = (region.get('region_attributes') or {}).get(attribute, '')
    if isinstance(value, dict):  # check boxes
        ticked = [key for key, on in value.items() if on]
        value = ticked[0] if len(ticked) == 1 else ''
    return str(value).strip()


def read_region(label: str, shape: dict) -> Any:
    """A region as an object; None for points and lines."""
    kind = shape['name']
    if kind == 'rect':
        x, y, w, h = (number(shape[key]) for key in ('x', 'y', 'width', 'height'))
        return Thing(label, (x, y, x + w, y + h))
    if kind == 'polygon':
        return Thing(label, outline=(points(zip(shape['all_points_x'], shape['all_points_y'])),))
    if kind in ('circle', 'ellipse'):
        x, y = number(shape['cx']), number(shape['cy'])
        rx, ry = (number(shape['r' if kind == 'circle' else key]) for key in ('rx', 'ry'))
        return Thing(label, outline=(ellipse(x, y, rx, ry, number(shape.get('theta') or 0)),))
    if kind in ('point', 'polyline'):
        return None
    raise ValueError(f'unknown shape {kind}')
