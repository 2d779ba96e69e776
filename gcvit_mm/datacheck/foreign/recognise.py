"""Telling the format of annotations from the files that lie in a folder."""

import itertools
import os.path as osp
import re
import shlex
from typing import Dict, Iterable, List

from ...errors import UserError
from . import labelme, via, voc, yolo
from .files import read_json, read_text, walk

# Names of the formats, and how the files with annotations end.
NAMES = {'voc': voc.NAME, 'yolo': yolo.NAME, 'labelme': labelme.NAME, 'via': via.NAME}
ENDINGS = {'voc': '.xml', 'yolo': '.txt', 'labelme': '.json', 'via': '.json'}
COCO = 'coco'
GLANCE = 8  # files of an ending that are opened
LARGE = 50_000_000  # bytes of a file that is not
MOST = 20_000  # files that are listed for a hint


def kind_of(path: str) -> str:
    """The format that a file of annotations is in, '' for any other file."""
    ending = osp.splitext(path)[1].lower()
    if ending == '.xml':
        with open(path, 'rb') as file:
            return 'voc' if b'<annotation' in file.read(2000) else ''
    if ending in ('.yaml', '.yml'):
        return 'yolo' if re.search('^names *:', read_text(path), re.M) else ''
    if ending == '.txt':
        lines = [line.split() for line in read_text(path).splitlines() if line.strip()]
        first = lines[0] if lines else []
        numbers = [re.fullmatch(r'-?[\d.]+(e-?\d+)?', part) for part in first]
        return 'yolo' if len(first) >= 5 and first[0].isdigit() and all(numbers) else ''
    content = read_json(path, 'JSON')
    if isinstance(content, dict) and {'images', 'annotations'} <= set(content):
        return COCO
    return 'labelme' if labelme.is_labelme(content) else 'via' if via.is_via(content) else ''


def recognise(paths: Iterable[str]) -> List[str]:
    """The formats of the annotations among some files, looking into a few of each ending."""
    paths = list(paths)
    found: Dict[str, None] = {}
    for endings in (('.xml',), ('.yaml', '.yml'), ('.txt',), ('.json',)):
        for path in [p for p in paths if p.lower().endswith(endings)][:GLANCE]:
            try:
                kind = kind_of(path) if osp.getsize(path) < LARGE else ''
            except (OSError, UserError):  # whoever converts it hears of it
                continue
            if kind:
                found[kind] = None
    return list(found)


def hint(*paths: str) -> str:
    """What to say of files or folders that are given in the place of COCO's; '' where nothing.

    Args:
        paths: Files with annotations, or folders of data; the first that is recognised counts.
    """
    for path in filter(osp.exists, paths):
        files = [path] if osp.isfile(path) else itertools.islice(walk(path), MOST)
        found = [name for name in recognise(files) if name != COCO]
        if found:
            source = shlex.quote(osp.normpath(path))
            return (
                f'{osp.normpath(path)} holds annotations of {NAMES[found[0]]}: '
                f'python -m gcvit_mm convert-data {source} DST turns them into COCO JSON'
            )
    return ''
