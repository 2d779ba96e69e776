"""From annotations of any format to content of COCO JSON files."""

import os.path as osp
import random
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ...errors import UserError
from ..report import some
from . import labelme, via, voc, yolo
from .files import IMAGES, Files, image_size, read_json
from .objects import Annotated, Notes, Thing, area, bounds, clip, corners, scaled, tidy
from .recognise import COCO, ENDINGS, NAMES, recognise

EDGE = 1.0  # pixels that a box may reach beyond its image without a word


class Split(NamedTuple):
    """One file of the outcome.

    Attributes:
        content: What COCO JSON holds.
        folder: The folder that its file names are relative to.
    """

    content: Dict[str, Any]
    folder: str


class Converted(NamedTuple):
    """The outcome of a conversion.

    Attributes:
        form: Name of the format that was read.
        splits: By name.
        classes: Names of the classes, in the order of their ids.
        masks: Whether objects have outlines.
        inputs: The annotation files that were read.
        warnings: What was left out or changed.
    """

    form: str
    splits: Dict[str, Split]
    classes: List[str]
    masks: bool
    inputs: List[str]
    warnings: List[str]


def convert(
    source: str,
    form: str = '',
    classes: Sequence[str] = (),
    attribute: str = '',
    val_fraction: float = 0.0,
    seed: int = 0,
    skip: str = '',
) -> Converted:
    """Read annotations, write nothing.

    Args:
        source: The folder of a data set, or a JSON file of LabelMe or VIA.
        form: 'voc', 'yolo', 'labelme' or 'via'; '' to see what lies there.
        classes: Names of the classes in their order; others are left out. Empty for all.
        attribute: Which attribute of VIA's regions is their class.
        val_fraction: How much of the training images becomes the validation set.
        seed: For choosing them.
        skip: A folder below ``source`` that does not belong to the data.

    Raises:
        UserError: If something cannot be read, or nothing is left.
    """
    if not osp.exists(source):
        raise UserError(f'{source} does not exist: name the folder of the data')
    alone = osp.isfile(source)
    files = Files((osp.dirname(source) or '.') if alone else source, skip)
    form = form or only_format(source, [source] if alone else files.all)
    notes = Notes()
    names: List[str] = []
    sources = [source] if alone else files.ending(ENDINGS[form])
    if form == 'voc':
        rows = voc.read(files, sources, notes)
    elif form == 'yolo':
        rows, names = yolo.read(files, notes, classes)
    elif form == 'labelme':
        rows = labelme.read(files, sources, notes)
    else:
        sources = sources if alone else [p for p in sources if via.is_via(read_json(p, via.NAME))]
        rows = via.read(files, sources, notes, attribute, classes)
    check_once(rows)
    if form != 'yolo' and not alone:  # where no file means no object
        used = {row.image for row in rows}
        folders = {osp.dirname(path) for path in used}
        for path in files.ending(*IMAGES):
            if osp.dirname(path) in folders and path not in used:
                notes.add('images have no annotation (left out)', path)
    sizes = measure(rows, notes)
    rows = [row for row in rows if row.image in sizes]
    if not rows:
        found = '; '.join(notes.lines()) or 'no annotation found'
        raise UserError(f'{source}: nothing to convert as {NAMES[form]}: {found}')
    labels = sorted({thing.label for row in rows for thing in row.things})
    names = list(classes) or names or labels
    strange = [name for name in classes if name not in labels]
    if strange:
        notes.add('classes have no object', some(strange))
    masks = any(thing.outline for row in rows for thing in row.things)
    splits = {
        name: Split(*as_coco(chosen, sizes, names, masks, notes))
        for name, chosen in distribute(rows, val_fraction, seed, notes).items()
    }
    return Converted(NAMES[form], splits, names, masks, sources, notes.lines())


def only_format(source: str, paths: List[str]) -> str:
    """The one format of some files."""
    found = recognise(paths)
    if found == [COCO]:
        raise UserError(f'{source} is in COCO format already: name it in the config as it is')
    found = [name for name in found if name != COCO]
    if len(found) > 1:
        raise UserError(f'{source} holds {some(found)}: choose one with --format')
    if not found:
        raise UserError(
            f'{source} holds nothing of {some(NAMES.values(), 9)}: name the folder of the data, or '
            'say with --format what it is'
        )
    return found[0]


def check_once(rows: List[Annotated]) -> None:
    """No image is described twice."""
    sources: Dict[str, str] = {}
    for row in rows:
        other = sources.setdefault(osp.realpath(row.image), row.source)
        if other is not row.source:
            raise UserError(f'{row.image} is described by {other} and {row.source}: take one out')


def measure(rows: List[Annotated], notes: Notes) -> Dict[str, Tuple[int, int]]:
    """Width and height of all images that can be used, as they are read."""
    sizes = {}
    for row in rows:
        size = image_size(row.image)
        if size is None:
            notes.add('images cannot be read (left out)', row.image)
        elif row.stated in (None, size[0]):
            sizes[row.image] = size[0]
        elif row.stated == size[1]:
            notes.add(
                'images are turned by their EXIF tag, which their annotations know nothing of '
                '(left out: save them upright, or annotate them anew)',
                row.image,
            )
        else:
            notes.add(
                'images have another size than their annotations say (left out: correct the file '
                'that is wrong)',
                f'{row.source} says {by(row.stated)}, {row.image} has {by(size[0])}',
            )
    return sizes


def by(size: Tuple[int, int]) -> str:
    """Width and height as text."""
    return f'{size[0]} x {size[1]}'


def distribute(
    rows: List[Annotated], fraction: float, seed: int, notes: Notes
) -> Dict[str, List[Annotated]]:
    """Images by split; all of them are for training where no split is named."""
    splits: Dict[str, List[Annotated]] = {}
    for row in sorted(rows, key=lambda row: row.image):
        for name in row.splits - {''}:
            splits.setdefault(name, []).append(row)
        if {'train', 'val'} <= row.splits:
            notes.add('images are in train and in val', row.image)
    outside = [row.image for row in rows if not row.splits - {''}]
    if not splits:
        splits = {'train': sorted(rows, key=lambda row: row.image)}
    else:
        for image in outside:
            notes.add('annotated images belong to no split (left out)', image)
    if fraction:
        train = splits.pop('trainval', None) or splits.get('train') or []
        count = max(1, round(fraction * len(train)))
        if 'val' in splits:
            raise UserError('--val-fraction: there is a val split already: leave the option out')
        if count >= len(train):
            raise UserError(
                f'--val-fraction {fraction} leaves none of {len(train)} images to train'
            )
        chosen = set(random.Random(seed).sample(range(len(train)), count))
        splits['train'] = [row for i, row in enumerate(train) if i not in chosen]
        splits['val'] = [row for i, row in enumerate(train) if i in chosen]
    order = [name for name in ('train', 'val', 'test') if name in splits]
    return {name: splits[name] for name in [*order, *sorted({*splits} - {*order})]}


def as_coco(
    rows: List[Annotated],
    sizes: Dict[str, Tuple[int, int]],
    names: List[str],
    masks: bool,
    notes: Notes,
) -> Tuple[Dict[str, Any], str]:
    """Images and objects of a split as COCO has them, and the folder that holds the images."""
    folder = osp.commonpath([osp.dirname(osp.abspath(row.image)) for row in rows])
    images: List[dict] = []
    annotations: List[dict] = []
    numbers = {name: i for i, name in enumerate(names, 1)}
    for i, row in enumerate(rows, 1):
        width, height = sizes[row.image]
        file_name = osp.relpath(osp.abspath(row.image), folder).replace('\\', '/')
        images.append(dict(id=i, file_name=file_name, width=width, height=height))
        for thing in row.things:
            if thing.label not in numbers:
                notes.add(f'objects of class {thing.label!r} (left out)', row.source)
                continue
            whole = scaled(thing, width, height) if row.relative else thing
            found = annotation(whole, width, height, masks, row.source, notes)
            if found:
                number = dict(id=len(annotations) + 1, image_id=i)
                annotations.append({**number, 'category_id': numbers[thing.label], **found})
    categories = [dict(id=number, name=name) for name, number in numbers.items()]
    return dict(images=images, annotations=annotations, categories=categories), folder


def annotation(
    thing: Thing, width: int, height: int, masks: bool, source: str, notes: Notes
) -> Optional[Dict[str, Any]]:
    """Box, area, mask and ``iscrowd`` of an object; None where nothing of it is in its image."""
    outline = tuple(ring for ring in thing.outline if len(ring) > 2)
    if not thing.box and not outline:
        notes.add('outlines have less than three corners (left out)', source)
        return None
    thing = thing._replace(outline=outline)
    box = thing.box or bounds(outline)
    if box[2] <= box[0] or box[3] <= box[1]:
        notes.add('boxes are empty or have their corners swapped (left out)', source)
        return None
    whole = clip(thing, width, height)
    inside = whole.box or bounds(whole.outline)
    left, top, right, bottom = (tidy(value) for value in inside)
    if right - left < 1 or bottom - top < 1:
        notes.add('objects are outside of their image or below a pixel (left out)', source)
        return None
    if max(abs(a - b) for a, b in zip(box, inside)) > EDGE:
        notes.add('objects reach beyond their image (clipped)', source)
    rings = [ring for ring in whole.outline if area(ring) > 0]
    if outline and not rings:
        notes.add('outlines have no area (left out)', source)
        return None
    if masks and not rings:
        notes.add('boxes among outlines (their four corners are taken as outline)', source)
        rings = [corners(inside)]
    surface = sum(map(area, rings)) if rings else (right - left) * (bottom - top)
    found: Dict[str, Any] = dict(
        bbox=[tidy(value) for value in (left, top, right - left, bottom - top)],
        area=tidy(surface),
        iscrowd=int(thing.crowd),
    )
    if masks:
        found['segmentation'] = [[tidy(v) for point in ring for v in point] for ring in rings]
    return found
