"""Files of a data set in whatever format: finding and reading them."""

import contextlib
import json
import os
import os.path as osp
import re
from typing import Any, Dict, Iterator, List, Optional, Tuple

from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from ...errors import UserError
from ...messages import described

IMAGES = tuple(IMG_EXTENSIONS)  # those that predict.py takes
SPLITS = {name: name for name in ('train', 'val', 'test')}
SPLITS.update(training='train', valid='val', validation='val', testing='test')
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
ORIENTATION = 0x0112


def walk(root: str, skip: str = '') -> Iterator[str]:
    """All files below a folder in order, through links too; a folder ``skip`` is left out."""
    seen = {osp.realpath(skip)} - {osp.realpath(root)}
    for folder, folders, names in os.walk(root, followlinks=True):
        if osp.realpath(folder) in seen:
            folders.clear()
            continue
        seen.add(osp.realpath(folder))
        folders[:] = sorted(f for f in folders if not f.startswith('.') and f != '__MACOSX')
        yield from (osp.join(folder, name) for name in sorted(names) if not name.startswith('.'))


def base(path: str) -> str:
    """Last part of a path of any system, such as ``C:\\images\\a.jpg``."""
    return re.split(r'[\\/]', path.strip())[-1]


def stem(path: str) -> str:
    """Name of a file without folder and ending."""
    name = base(path)
    head, ending = osp.splitext(name)
    return head if ending.lower() in (*IMAGES, '.xml', '.txt', '.json') else name


class Files:
    """The files of a data set.

    Args:
        root: Its folder.
        skip: A folder in it that does not belong to it: that of the outputs.
    """

    def __init__(self, root: str, skip: str = '') -> None:
        self.root = root
        self.all = list(walk(root, skip))
        self.by_stem: Dict[str, List[str]] = {}
        for path in self.ending(*IMAGES):
            self.by_stem.setdefault(stem(path), []).append(path)

    def ending(self, *endings: str) -> List[str]:
        """Files whose names end so."""
        return [path for path in self.all if path.lower().endswith(endings)]

    def image_of(self, source: str, stated: str) -> str:
        """The image that an annotation file describes, '' where there is none.

        An image of the same stem comes before the one that the file names, which a renamed image
        leaves behind. Among several, that with the stated name, no mask, and the nearest; none of
        another split.
        """
        split = self.split_of(source)

        def fitness(path: str) -> Tuple[bool, bool, int]:
            near = len(osp.commonpath([osp.abspath(path), osp.abspath(source)]))
            mask = re.search('mask|segmentation', osp.dirname(path)[len(self.root) :], re.I)
            return base(path) == base(stated), not mask, near

        for name in (stem(source), stem(stated)):
            found = self.by_stem.get(name, [])
            found = [path for path in found if not split or self.split_of(path) in ('', split)]
            if found:
                return max(found, key=fitness)
        return ''

    def split_of(self, path: str) -> str:
        """The split that a folder between the root and a file names, '' where none does."""
        parts = osp.relpath(path, self.root).lower().split(os.sep)[:-1]
        return next((SPLITS[part] for part in parts if part in SPLITS), '')


def image_size(path: str) -> Optional[Tuple[Tuple[int, int], Tuple[int, int]]]:
    """Width and height as mmcv reads an image, then as it lies in the file; None if unreadable."""
    try:
        with Image.open(path) as image:
            stored = image.size
            turned = image.getexif().get(ORIENTATION) in TURNED
    except Exception:  # the decoders raise all kinds of errors
        return None
    return (stored[::-1] if turned else stored), stored


@contextlib.contextmanager
def reading(path: str, kind: str) -> Iterator[None]:
    """Whatever is odd in a file ends in one line that names it."""
    try:
        yield
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(f'{path} is not UTF-8: save it as UTF-8') from error
    except KeyError as error:
        raise UserError(f'{path} has no {error}, which {kind} needs: add it') from error
    except RecursionError as error:
        raise UserError(f'{path} is nested too deeply for {kind}: replace it') from error
    except Exception as error:  # any content that a file may have
        raise UserError(
            f'{path} cannot be read as {kind} ({described(error)}): correct it, or take it out'
        ) from error


def read_text(path: str) -> str:
    """A text file in UTF-8, with or without its mark."""
    with reading(path, 'text'), open(path, encoding='utf-8-sig') as file:
        return file.read()


def read_json(path: str, kind: str) -> Any:
    """A JSON file."""
    with reading(path, kind), open(path, 'rb') as file:
        return json.loads(file.read())
