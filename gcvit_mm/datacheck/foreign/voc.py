"""Pascal VOC: an XML file for every image, splits in ImageSets/Main."""

import os.path as osp
import re
import xml.etree.ElementTree as ET
from typing import Any, Dict, List, Optional, Set

from ...errors import UserError
from .files import Files, base, read_text, reading, stem
from .objects import Annotated, Notes, Thing, number

NAME = 'Pascal VOC'


class Plain(ET.TreeBuilder):
    """Builds a tree of a file that declares nothing: entities can unfold to any size."""

    def doctype(self, *args: Any) -> None:
        """Refuse a declaration."""
        raise UserError('declares a document type, which may hide anything: take the line out')


def read_xml(path: str) -> ET.Element:
    """The root of an XML file."""
    with reading(path, NAME):
        try:
            return ET.parse(path, ET.XMLParser(target=Plain())).getroot()
        except UserError as error:
            raise UserError(f'{path} {error}') from error


def read(files: Files, sources: List[str], notes: Notes) -> List[Annotated]:
    """Read the XML files of a data set."""
    rows: Dict[str, Annotated] = {}
    for path in sources:
        row = read_annotation(path, files, notes)
        if row:
            rows[path] = row
    lists = read_lists(files)
    for path, row in rows.items():
        if lists:
            row.splits = {name for name, stems in lists.items() if stem(path) in stems}
        else:
            row.splits = {files.split_of(path) or files.split_of(row.image)}
    known = {stem(path) for path in sources}
    for name in sorted({name for stems in lists.values() for name in stems} - known):
        notes.add('listed images have no XML file (left out)', name)
    return list(rows.values())


def read_annotation(path: str, files: Files, notes: Notes) -> Optional[Annotated]:
    """Read an XML file; None where it is no annotation, or its image is missing."""
    root = read_xml(path)
    if root.tag != 'annotation':
        notes.add('XML files hold no annotation (passed over)', path)
        return None
    image = files.image_of(path, root.findtext('filename') or '')
    if not image:
        notes.add('annotated images are missing (left out)', path)
        return None
    with reading(path, NAME):
        sides = [number(root.findtext(f'size/{side}') or 0) for side in ('width', 'height')]
        things = [thing for node in root.findall('object') for thing in read_object(node)]
    stated = (int(sides[0]), int(sides[1])) if min(sides) > 0 else None
    return Annotated(image, path, things, stated)


def read_object(node: ET.Element) -> List[Thing]:
    """The object of a node; pixels of VOC count from 1, and the last one belongs to the box."""
    label = (node.findtext('name') or '').strip()
    if not label:
        raise ValueError('an object has no name')
    sides = {}
    for side in ('xmin', 'ymin', 'xmax', 'ymax'):
        text = node.findtext(f'bndbox/{side}')
        if text is None:
            raise ValueError(f'object {label} has no bndbox/{side}')
        sides[side] = number(text)
    box = (sides['xmin'] - 1, sides['ymin'] - 1, sides['xmax'], sides['ymax'])
    return [Thing(label, box, crowd=(node.findtext('difficult') or '0').strip() == '1')]


def read_lists(files: Files) -> Dict[str, Set[str]]:
    """The splits that ImageSets/Main lists: stems by name, without the lists of single classes.

    A list of training and validation together is left out where both stand alone.
    """
    lists: Dict[str, Set[str]] = {}
    for path in files.ending('.txt'):
        name = stem(path)
        folder = osp.dirname(path).replace('\\', '/')
        if folder.endswith('ImageSets/Main') and not re.search('_(train|val|trainval|test)$', name):
            rows = [line.split() for line in read_text(path).splitlines() if line.strip()]
            lists[name] = {stem(base(row[0])) for row in rows}
    if {'train', 'val'} <= set(lists):
        lists.pop('trainval', None)
    return lists
