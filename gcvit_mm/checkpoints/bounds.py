"""What a checkpoint file may unfold to: not more than the file is long."""

import mmap
import os
import pickletools
import zipfile
from typing import Any, Iterator, List

import numpy as np
import torch

from ..errors import CheckpointError


def check_packed(path: str) -> None:
    """Check, before a file is read, that it takes no more memory than it is long.

    torch stores weights as they are: an archive that is compressed, or whose entries overlap, was
    not written by it.

    Raises:
        CheckpointError: If it would.
    """
    length = os.path.getsize(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
            if packed or sum(entry.file_size for entry in entries) > length:
                raise unfolds(path, 'is a compressed archive')
            indices = [e.filename for e in entries if e.filename.endswith('/data.pkl')]
            texts = [archive.read(name) for name in indices]
        if any(b'bytearray' in text and _largest(text) > length for text in texts):
            raise unfolds(path, 'makes more bytes than it holds')
    elif length:
        with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            if text.find(b'bytearray\n') >= 0:
                raise unfolds(path, 'makes bytes that it does not hold')


def _largest(text: bytes) -> int:
    """The largest whole number that a pickle names."""
    numbers = (value for _, value, _ in pickletools.genops(text) if isinstance(value, int))
    return max(numbers, default=0)


def check_unpacked(content: Any, path: str) -> None:
    """Check that what was read is no larger than the file, before anything is computed with it.

    A few bytes can stand for a tensor of any size: one number seen many times, or memory that
    was only reserved.

    Raises:
        CheckpointError: If it is larger.
    """
    left, counted = os.path.getsize(path), set()
    for item in arrays(content):
        if isinstance(item, np.ndarray):
            stored = item.nbytes
        elif item.layout is torch.strided and not item.is_meta:
            stored = item.untyped_storage().nbytes()
            if item.numel() * item.element_size() > stored:
                raise unfolds(
                    path, f'holds a tensor of {tuple(item.shape)} that repeats its numbers'
                )
            if item.untyped_storage().data_ptr() in counted:
                continue
            counted.add(item.untyped_storage().data_ptr())
        else:
            continue
        left -= stored
        if left < 0:
            raise unfolds(path, 'holds more numbers than fit into it')


def arrays(content: Any) -> Iterator[Any]:
    """Every tensor and numpy array in what a checkpoint holds, however it is nested."""
    waiting: List[Any] = [content]
    seen = set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, (torch.Tensor, np.ndarray)):
            yield item
            continue
        if isinstance(item, (str, bytes, int, float, type(None))) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, (list, tuple, set)):
            waiting += item
        if hasattr(item, '__dict__'):
            waiting += vars(item).values()


def unfolds(path: str, what: str) -> CheckpointError:
    """What to say of a file that takes more memory than it is long."""
    return CheckpointError(
        f'checkpoint {path} {what}, which no training saves: take it from another source'
    )
