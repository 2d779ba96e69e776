"""YOLO: a text file for every image, names and splits in data.yaml."""

import os.path as osp
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import yaml

from ...errors import UserError
from ..report import some
from .files import IMAGES, Files, read_text, reading, stem, walk
from .objects import Annotated, Notes, Ring, Thing, number

NAME = 'YOLO'
LISTS = ('classes.txt', 'obj.names', 'classes.names', '_darknet.labels')
SPLITS = ('train', 'val', 'test')


def settings_file(files: Files) -> str:
    """The YAML file that names classes, '' where there is none."""
    found = []
    for path in files.ending('.yaml', '.yml'):
        with reading(path, 'YAML'):
            content = yaml.safe_load(read_text(path))
        if isinstance(content, dict) and 'names' in content:
            found.append(path)
    first = [path for path in found if osp.basename(path) in ('data.yaml', 'dataset.yaml')]
    found = first or found
    if len(found) > 1:
        raise UserError(f'{some(found)} name classes: leave one of them in {files.root}')
    return found[0] if found else ''


def read(
    files: Files, notes: Notes, classes: Sequence[str] = ()
) -> Tuple[List[Annotated], List[str]]:
    """Read a data set; return its images and the names of its classes.

    Args:
        files: The files of it.
        notes: Takes what is left out.
        classes: Names of the classes where no file has them.
    """
    path = settings_file(files)
    settings: Dict[str, Any] = {}
    if path:
        with reading(path, 'YAML'):
            settings = yaml.safe_load(read_text(path))
            names = class_names(settings['names'])
    else:
        names = listed_names(files) or list(classes)
    if not names:
        raise UserError(
            f'{files.root} has no data.yaml and no classes.txt, which name the classes: write them '
            'into classes.txt, one a line, or give them with --classes'
        )
    splits: Dict[str, List[str]] = {}
    for name in SPLITS:
        images = (
            list(images_of(settings[name], path, settings, notes)) if settings.get(name) else []
        )
        if images:
            splits[name] = images
    if not splits:
        for image in files.ending(*IMAGES):
            splits.setdefault(files.split_of(image), []).append(image)
    rows: Dict[str, Annotated] = {}
    labels = set()
    for split, images in splits.items():
        for image in images:
            key = osp.realpath(image)
            if key not in rows:
                label = label_of(image)
                if label:
                    labels.add(label)
                else:
                    notes.add('images have no label file (taken as images without objects)', image)
                things = read_label(label, names, 'kpt_shape' in settings) if label else []
                rows[key] = Annotated(image, label or image, things, relative=True)
            rows[key].splits.add(split)
    if not labels:
        raise UserError(f'{files.root}: no image has a label file: put labels/ beside images/')
    folders = {osp.dirname(label) for label in labels}
    for label in files.ending('.txt'):
        alone = stem(label) not in files.by_stem and osp.basename(label) not in LISTS
        if alone and osp.dirname(label) in folders:
            notes.add('label files have no image (left out)', label)
    return list(rows.values()), names


def class_names(names: Any) -> List[str]:
    """Names in the order of their numbers, from a list or from a dict by number."""
    if isinstance(names, dict):
        numbers = {int(key): str(name) for key, name in names.items()}
        if sorted(numbers) != list(range(len(numbers))):
            raise ValueError(f'names has the numbers {some(sorted(numbers))}, not 0, 1, 2, ...')
        return [numbers[i] for i in range(len(numbers))]
    if not isinstance(names, list):
        raise ValueError(f'names is {names!r}, neither a list nor a dict')
    return [str(name) for name in names]


def listed_names(files: Files) -> List[str]:
    """Names from a text file with one a line, empty where there is none."""
    found = {}
    for path in files.all:
        if osp.basename(path) in LISTS:
            found[path] = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    lists = list(found.values())
    if any(names != lists[0] for names in lists):
        raise UserError(f'{some(found)} name different classes: leave one of them')
    return lists[0] if lists else []


def images_of(entry: Any, path: str, settings: dict, notes: Notes) -> Iterator[str]:
    """The images of a split: a folder, a list of images, or several of them.

    Args:
        entry: What the YAML file says.
        path: That file.
        settings: All of it; ``path`` is the folder that entries are relative to.
        notes: Takes what is missing.
    """
    here = osp.dirname(path)
    roots = [osp.join(here, str(settings.get('path') or '')), here]
    for part in entry if isinstance(entry, list) else [entry]:
        part = str(part).replace('\\', '/')
        # some exports say ../train/images of a folder beside the file
        places = [osp.join(root, p) for root in roots for p in (part, part.replace('../', '', 1))]
        place = next((osp.normpath(place) for place in places if osp.exists(place)), '')
        if osp.isdir(place):
            yield from (p for p in walk(place) if p.lower().endswith(IMAGES))
        elif place.endswith('.txt'):
            for line in filter(None, map(str.strip, read_text(place).splitlines())):
                line = line.replace('\\', '/')
                images = [osp.join(root, line) for root in (osp.dirname(place), *roots)]
                image = next((image for image in images if osp.isfile(image)), '')
                if image:
                    yield image
                else:
                    notes.add('listed images are missing (left out)', line)
        else:
            notes.add(f'folders or lists that {path} names are missing (left out)', part)


def label_of(image: str) -> str:
    """The label file of an image: in labels/ for images/, or beside it; '' where there is none."""
    folder, name = osp.split(osp.splitext(image)[0] + '.txt')
    parts = folder.split('/')
    places = [folder, osp.join(folder, 'labels'), osp.join(osp.dirname(folder), 'labels')]
    if 'images' in parts:
        last = len(parts) - 1 - parts[::-1].index('images')
        places.insert(0, '/'.join([*parts[:last], 'labels', *parts[last + 1 :]]))
    found = (osp.join(place, name) for place in places)
    return next((path for path in found if osp.isfile(path)), '')


def read_label(path: str, names: List[str], points_follow: bool) -> List[Thing]:
    """The objects of a label file, in fractions of the image.

    Args:
        path: The file.
        names: Of the classes.
        points_follow: Whether key points follow a box; they are passed over.
    """
    things = []
    for i, line in enumerate(read_text(path).splitlines(), 1):
        with reading(f'{path}, line {i},', NAME):
            values = [number(value) for value in line.split()]
            if not values:
                continue
            kind, values = values[0], values[1:]
            if kind not in range(len(names)):
                raise UserError(
                    f'{path}, line {i}: class {kind:g}, but {len(names)} names '
                    f'({some(names)}): add the name, or correct the number'
                )
            values = values[:4] if points_follow else values
            if any(abs(value) > 1.5 for value in values):
                raise UserError(
                    f'{path}, line {i}: {max(values, key=abs):g} is no fraction of the image: YOLO '
                    'divides by its width and height'
                )
            if len(values) == 4:
                x, y, w, h = values
                box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
                things.append(Thing(names[int(kind)], box))
            elif len(values) >= 6 and len(values) % 2 == 0:
                ring: Ring = list(zip(values[::2], values[1::2]))
                things.append(Thing(names[int(kind)], outline=(ring,)))
            else:
                raise UserError(
                    f'{path}, line {i}: {len(values)} numbers behind the class: a box has 4, an '
                    'outline 6 or more, an even number; a confidence does not belong there'
                )
    return things
