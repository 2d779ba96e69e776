"""Which run a folder and a checkpoint belong to, and who is training in a folder now.

Every start of training has a random name. A run is the line of its starts, each with the step it
began at; it stands in ``run.json`` of the work dir and in ``meta['run']`` of every checkpoint. The
name of the first start is that of the run.
"""

import errno
import json
import math
import os
import os.path as osp
import re
import secrets
import socket
from typing import Any, Dict, List, Tuple

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from ..errors import UserError
from .whole_files import write_whole

Line = List[Tuple[str, int]]
RECORD, LOCK = 'run.json', 'run.lock'
# What a checkpoint without an identity counts as: saved by mmengine, or an earlier release.
UNKNOWN: Line = [('', 0)]
MOST = 1_000_000  # bytes of a record

_locks: Dict[str, int] = {}


def plain_line(value: Any) -> Line:
    """Read a line of starts that may come from anywhere; empty if it is none."""
    try:
        line = [(start, begin) for start, begin in value]
    except (TypeError, ValueError):
        return []
    fine = all(isinstance(s, str) and type(b) is int and 0 <= b < 2**40 for s, b in line)
    return line if fine else []


def line_of(meta: Any) -> Line:
    """The line of starts that a checkpoint names."""
    run = meta.get('run') if isinstance(meta, dict) else None
    return plain_line(run.get('line') if isinstance(run, dict) else None) or UNKNOWN


def read_line(folder: str) -> Line:
    """The line of starts of the run in a folder; empty if there is none."""
    try:
        with open(osp.join(folder, RECORD), encoding='utf-8') as file:
            record = json.loads(file.read(MOST))
    except (OSError, ValueError, RecursionError):
        return []
    return plain_line(record.get('line')) if isinstance(record, dict) else []


def write_line(folder: str, line: Line) -> None:
    """Write the line of starts of the run in a folder."""
    write_whole(json.dumps(dict(line=line)).encode(), osp.join(folder, RECORD))


def new_start(line: Line, step: int) -> Line:
    """A line with one more start, which resumes from a step of the last."""
    first, rest = line[:1], line[1:]
    rest = [(start, begin) for start, begin in rest if begin < step]  # others left nothing
    return [*first, *rest, (secrets.token_hex(8), step)]


def belongs(start: str, step: int, line: Line) -> bool:
    """Tell whether what a start saved at a step lies on a line, and not on a branch given up."""
    for place, (name, _) in enumerate(line):
        if name == start:
            return place + 1 == len(line) or step <= line[place + 1][1]
    return False


def lock_folder(folder: str) -> None:
    """Keep other runs out of a folder until this process ends.

    The lock goes with the process, however that ends. Where a file system has no locks there is
    none.

    Raises:
        UserError: If another process holds it; host and process are named.
    """
    path = osp.realpath(osp.join(folder, LOCK))
    if fcntl is None or path in _locks:
        return
    os.makedirs(folder, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(handle, 200).decode(errors='replace').strip() or 'another process'
        os.close(handle)
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise UserError(
                f'{folder}: {holder} is training in it: wait for it, end it, or name another '
                '--work-dir'
            ) from error
        return
    os.ftruncate(handle, 0)
    os.write(handle, f'process {os.getpid()} on {socket.gethostname()}'.encode())
    _locks[path] = handle


def unlock_folder(folder: str) -> None:
    """Let other runs into a folder again."""
    handle = _locks.pop(osp.realpath(osp.join(folder, LOCK)), None)
    if handle is not None:
        os.close(handle)


def keep_own(info: dict, folder: str, same: bool) -> bool:
    """Leave in what a checkpoint remembers only files of this run, in its own folder.

    Args:
        info: ``runtime_info`` of its message hub; changed in place.
        folder: Where this run keeps its checkpoints.
        same: Whether the checkpoint is of this run.

    Returns:
        Whether the best checkpoint is still what it was, if there was one.
    """
    kept = True
    info.pop('last_ckpt', None)
    steps = info.pop('keep_ckpt_ids', None)
    if same and isinstance(steps, list):
        info['keep_ckpt_ids'] = [step for step in steps if type(step) is int and step >= 0]
    for key in [key for key in info if str(key).startswith('best_ckpt')]:
        path = osp.join(folder, osp.basename(str(info[key])))
        score = info.get(key.replace('best_ckpt', 'best_score', 1))
        fine = isinstance(score, (int, float)) and math.isfinite(score)
        named = re.fullmatch(r'best_.+\.pth', osp.basename(path))
        if same and fine and named and osp.isfile(path) and not osp.islink(path):
            info[key] = path
        else:
            kept = False
            info.pop(key)
            info.pop(key.replace('best_ckpt', 'best_score', 1), None)
    for key in [key for key in info if str(key).startswith('best_score')]:
        if key.replace('best_score', 'best_ckpt', 1) not in info:
            info.pop(key)
    return kept
