"""Saying in one line why a tool ends."""

import difflib
import errno
import inspect
import logging
import os
import re
import traceback
from contextlib import contextmanager
from typing import Any, Iterator, Tuple

from mmengine.logging import MMLogger

from .errors import UserError
from .processes import noted_files

# Set it to 1 to see where an error comes from.
TRACEBACK = 'GCVIT_MM_TRACEBACK'
# What some releases of mmengine put before the message of a class that they cannot build.
BUILDING = re.compile(r'^class `\w+` in [\w./\\-]+: ')
# Advice of mmengine that takes more room than what it is about.
UNREGISTERED = re.compile(r'( is not in the \S+ registry)\. Please check .*')
UNKNOWN = re.compile(r"got an unexpected keyword argument '(\w+)'")
TIMED_OUT = re.compile('DataLoader timed out after')
MOST = 300
# What the operating system says of disks that are full, and of folders that are not ours.
UNWRITABLE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
)


def explain(error: Exception) -> Tuple[str, int]:
    """Say in one line why a tool ends.

    Args:
        error: What was raised.

    Returns:
        The line, and the status: 2 for bad input, 1 for what nobody foresaw.
    """
    path = log_traceback(error)
    if isinstance(error, UserError):
        return one_line(error), 2
    if TIMED_OUT.match(str(error)):
        files = ', '.join(noted_files()) or 'unknown'
        return printable(
            f'{error}; files being read: {files}: look at them and their disk, or set '
            'train_dataloader.timeout higher'
        ), 2
    built = what_was_built(error)
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        named = ': '.join(str(part) for part in (error.filename, error.strerror) if part)
        return printable(f'{named}: make space, change the rights, or name another folder'), 2
    if isinstance(error, ImportError):
        return f'{described(error)}: python -m gcvit_mm doctor says what is missing', 2
    if built:
        return cannot_build(built, error), 2
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f'is in {path}' if path else f'is shown with {TRACEBACK}=1'
    place = f'{last.name}, {last.filename}:{last.lineno}'
    return f'{described(error)} ({place}); the whole traceback {where}', 1


def cannot_build(built: str, error: BaseException) -> str:
    """What to say when a part of a config cannot be built."""
    return f'config: {built} cannot be built: {described(error)}: correct its arguments'


def one_line(error: BaseException) -> str:
    """The message of an error as one line, that of a data loader's worker as it was there."""
    text = str(error)
    if isinstance(error, KeyError) and error.args:
        text = str(error.args[0])
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if 'Original Traceback' in text:
        lines = [re.sub(r'^[\w.]*\bUserError: ', '', lines[-1])]
    text = ' '.join(lines)
    text = UNREGISTERED.sub(r'\1', text)
    while BUILDING.match(text):
        text = BUILDING.sub('', text)
    return printable(text)


def printable(text: str) -> str:
    """A text that may come from a file, with what a terminal would obey written out."""
    return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def described(error: BaseException) -> str:
    """Kind and message of an error, shortened."""
    if isinstance(error, UserError):
        return one_line(error)
    text = one_line(error)
    if not text:  # a bare assertion: the line that failed
        frames = traceback.extract_tb(error.__traceback__)
        text = frames[-1].line or '' if frames else ''
    return shorten(f'{type(error).__name__}: {text}', MOST)


def shorten(text: str, most: int) -> str:
    """Cut a text that is longer than ``most``."""
    return text if len(text) <= most else f'{text[:most]}...'


def what_was_built(error: BaseException) -> str:
    """Which part of a config mmengine's registry was building, with its arguments."""
    found = ''
    unknown = UNKNOWN.search(str(error))
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for values in (f.f_locals for f in frames if f.f_code.co_name == 'build_from_cfg'):
        kind, arguments = values.get('obj_type'), values.get('args')
        if kind is None:  # it is not even a dict
            found = shorten(repr(values.get('cfg')), MOST)
        else:
            kind = kind if isinstance(kind, str) else getattr(kind, '__name__', kind)
            given = (f'{k}={shorten(repr(v), 40)}' for k, v in (arguments or {}).items())
            found = f'{kind}({shorten(", ".join(given), MOST)})'
            close = nearest(str(kind), values.get('registry'))
            if unknown and unknown[1] in (arguments or {}):
                close = close or nearest_argument(unknown[1], values.get('obj_cls'))
            found += f' (did you mean {close}?)' if close else ''
    return ' '.join(found.split())


def nearest(name: str, registry: Any) -> str:
    """The name in a registry that is most like one that is not in it; '' if there is none."""
    try:
        if registry is None or registry.get(name) is not None:
            return ''
    except Exception:  # what looks like a path of modules is imported
        return ''
    known: list = []
    while registry is not None:
        known += registry.module_dict
        registry = registry.parent
    same = [other for other in known if other.lower() == name.lower()]
    return next(iter(same or difflib.get_close_matches(name, known, n=1)), '')


def nearest_argument(name: str, function: Any) -> str:
    """The argument of a function or class that is most like one it has not; '' if there is none."""
    try:
        known = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ''
    return next(iter(difflib.get_close_matches(name, known, n=1)), '')


@contextmanager
def quiet() -> Iterator[None]:
    """Keep libraries from words that nobody asked for, and from advice that does not hold here."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


def log_traceback(error: BaseException) -> str:
    """Write where an error comes from into the log of the run; return the file, '' without one.

    It goes to the terminal too where the environment variable ``GCVIT_MM_TRACEBACK`` is set.
    """
    text = ''.join(traceback.format_exception(type(error), error, error.__traceback__))
    if os.environ.get(TRACEBACK, '0') != '0':
        print(text, flush=True)
    path = ''
    for handler in MMLogger.get_current_instance().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(logging.LogRecord('gcvit_mm', logging.ERROR, '', 0, text, None, None))
            path = handler.baseFilename
    return path
