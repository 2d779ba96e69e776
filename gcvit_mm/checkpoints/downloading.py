"""Downloading released checkpoints: whole, from the address that was asked for, and once."""

import hashlib
import http.client
import json
import os
import os.path as osp
import re
import time
from typing import Any, BinaryIO, Dict
from urllib.error import HTTPError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import torch
from filelock import FileLock
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import CheckpointError

TRIES = 3
PAUSE = 1  # seconds between them
TIMEOUT = 60  # seconds without a byte
CHUNK = 1 << 20
# As torch.hub has it: the name ends in the first digits of its sha256.
HASH = re.compile(r'-([0-9a-f]{8,64})\.')


def download(url: str) -> str:
    """Return the local copy of a released checkpoint, downloading it once.

    It is kept in ``torch.hub``'s checkpoint folder, under its own name; a file of that name that
    came from another address is another file. A file put there by hand is taken as it is. Of
    several processes that want it one downloads and the others wait. What a cut transfer left is
    gone on with.

    Args:
        url: Address of the file.

    Raises:
        CheckpointError: If it cannot be fetched whole; the message says where to put the file.
    """
    folder = osp.join(torch.hub.get_dir(), 'checkpoints')
    path = osp.join(folder, osp.basename(urlparse(url).path))
    try:
        os.makedirs(folder, exist_ok=True)
        with FileLock(f'{path}.lock'):
            if osp.exists(path) and read_note(path).get('url', url) != url:
                stem, extension = osp.splitext(path)
                path = f'{stem}-from-{hashlib.sha256(url.encode()).hexdigest()[:8]}{extension}'
            if not osp.exists(path):
                fetch(url, path)
    except (OSError, http.client.HTTPException) as error:
        raise CheckpointError(
            f'cannot download {url} ({error}): fetch that file on a machine with internet access '
            f'and put it at {path}, or train from scratch with '
            '--cfg-options model.backbone.init_cfg=None'
        ) from error
    return path


def read_note(path: str) -> Dict[str, Any]:
    """What is noted of a file that was downloaded: its address, and the version of it."""
    try:
        with open(f'{path}.json', encoding='utf-8') as file:
            note = json.load(file)
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def fetch(url: str, path: str) -> None:
    """Download a file, going on where a transfer was cut.

    Raises:
        OSError: If it does not come whole, or is not what its name says.
    """
    partial = f'{path}.partial'
    for left in reversed(range(TRIES)):
        try:
            transfer(url, path, partial)
            break
        except HTTPError:
            raise
        except (OSError, http.client.HTTPException):
            if not left:
                raise
            time.sleep(PAUSE)
    match = HASH.search(osp.basename(urlparse(url).path))
    if match and not hash_of(partial).startswith(match[1]):
        os.remove(partial)
        raise OSError(f'its sha256 does not begin with {match[1]}, as its name says')
    os.replace(partial, path)


def transfer(url: str, path: str, partial: str) -> None:
    """Fetch what is lacking of a file.

    Raises:
        OSError: If less arrives than was announced; what arrived is kept for the next try.
    """
    note = read_note(path)
    done = osp.getsize(partial) if osp.exists(partial) and note.get('url') == url else 0
    request = Request(url, headers={'User-Agent': 'gcvit_mm'})
    if done and note.get('version'):
        request.add_header('Range', f'bytes={done}-')
        request.add_header('If-Range', note['version'])
    try:
        reply = urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != 416:
            raise
        os.remove(partial)  # there is no more than that, which may be another version's
        raise OSError(f'{done} bytes are no part of it') from error
    with reply:
        if reply.status != 206:
            done = 0
        tag = reply.headers.get('ETag') or ''
        version = reply.headers.get('Last-Modified') if tag[:2] in ('', 'W/') else tag
        length = reply.headers.get('Content-Length')
        total = done + int(length) if length and length.isdigit() else None
        with open(f'{path}.json', 'w', encoding='utf-8') as file:
            json.dump(dict(url=url, version=version), file)
        with open(partial, 'r+b' if done else 'wb') as target:
            target.seek(done)
            arrived = done + copy(reply, target, osp.basename(path), done, total)
    if total is not None and arrived != total:
        raise OSError(f'{arrived} of {total} bytes arrived')


def copy(source: Any, target: BinaryIO, name: str, done: int, total: Any) -> int:
    """Copy a stream with a bar of progress; return how many bytes it had."""
    count = 0
    columns = (TextColumn('{task.description}'), BarColumn(), DownloadColumn())
    with Progress(*columns, TimeRemainingColumn()) as progress:
        task = progress.add_task(name, total=total, completed=done)
        while True:
            data = source.read(CHUNK)
            if not data:
                return count
            target.write(data)
            count += len(data)
            progress.update(task, advance=len(data))


def hash_of(path: str) -> str:
    """The sha256 of a file."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for data in iter(lambda: file.read(CHUNK), b''):
            digest.update(data)
    return digest.hexdigest()
