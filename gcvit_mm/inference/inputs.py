"""What is predicted: files, folders, patterns and videos, named one by one."""

import glob
import os
import os.path as osp
from collections import abc
from typing import Iterable, List, NamedTuple, Union

import mmcv
import numpy as np

from ..datacheck.images import read_image
from ..datacheck.report import some
from ..errors import UserError
from ..messages import printable
from .results import Path

VIDEO_EXTENSIONS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv')

Image = Union[Path, np.ndarray]


class Inputs(NamedTuple):
    """What was found.

    Attributes:
        images: Files that can be read as images.
        videos: Files that can be read as videos.
        skipped: What else folders and patterns held: other files, damaged ones, folders.
    """

    images: List[str]
    videos: List[str]
    skipped: List[str]

    def __str__(self) -> str:
        found = [_counted(self.images, 'image')] if self.images or not self.videos else []
        found += [_counted(self.videos, 'video')] if self.videos else []
        text = ' and '.join(found)
        if self.skipped:
            names = some(osp.basename(osp.normpath(path)) for path in self.skipped)
            text += f', skipped {len(self.skipped)} that can be read as neither: {names}'
        return printable(text)


def _counted(things: list, name: str) -> str:
    return f'{len(things)} {name}{"" if len(things) == 1 else "s"}'


def find_inputs(words: Iterable[str]) -> Inputs:
    """Find images and videos, and read each once (of videos the first frame).

    Args:
        words: Files, folders (what lies in them, by name, but no folders in them), or patterns as
            ``'data/*.jpg'``.

    Raises:
        UserError: If a file that was named is missing or can be read as neither, or nothing is
            found.
    """
    found = Inputs([], [], [])
    for word in words:
        if osp.isfile(word):
            kind = _kind(word)
            if not kind:
                raise UserError(
                    f'image {word} cannot be read: it is no image, no video, or damaged: replace it'
                )
            getattr(found, kind).append(word)
            continue
        for path in _inside(word):
            getattr(found, _kind(path) or 'skipped').append(path)
    if not (found.images or found.videos):
        raise UserError(f'there is nothing to predict: {found}')
    return found


def _kind(path: str) -> str:
    """Which of a tuple of inputs a path belongs to; empty for what cannot be read."""
    if path.lower().endswith(VIDEO_EXTENSIONS):
        return 'videos' if _is_video(path) else ''
    return 'images' if osp.isfile(path) and read_image(path) is not None else ''


def _is_video(path: str) -> bool:
    return osp.isfile(path) and mmcv.VideoReader(path).read() is not None


def _inside(word: str) -> List[str]:
    """What a folder holds, or a pattern matches, by name; hidden files are left out."""
    pattern = osp.join(glob.escape(word), '*') if osp.isdir(word) else word
    paths = sorted(glob.glob(pattern, recursive=True))
    if not paths and osp.isdir(word):
        raise UserError(f'folder {word} has no image: name another')
    if not paths and glob.has_magic(word):
        raise UserError(f'no file matches {word}: check the pattern')
    if not paths:
        raise UserError(f'image {word} does not exist: check the path')
    return paths


def list_images(images: Union[Image, Iterable[Image]]) -> List[Image]:
    """Name images one by one.

    Args:
        images: As :meth:`Predictor.predict` takes them.

    Raises:
        UserError: If one is missing or no image, or a folder has none.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    if isinstance(images, (str, np.ndarray)) or not isinstance(images, abc.Iterable):
        images = [images]
    found: List[Image] = []
    for image in images:
        if isinstance(image, np.ndarray):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
                raise UserError(
                    f'an array of shape {image.shape} and {image.dtype} is no image: give '
                    '(height, width, 3) of uint8, RGB'
                )
            found.append(image)
        elif not isinstance(image, (str, os.PathLike)):
            raise UserError(
                f'a {type(image).__name__} is no image: give files, folders, or arrays (height, '
                'width, 3) of uint8'
            )
        elif osp.isfile(image):
            found.append(image)
        else:
            paths = _inside(os.fspath(image))
            inside = [path for path in paths if path.lower().endswith(IMG_EXTENSIONS)]
            if not inside:
                what = 'folder' if osp.isdir(image) else 'pattern'
                raise UserError(f'{what} {image} has no image: name another')
            found += inside
    return found
