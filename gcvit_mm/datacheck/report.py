"""What a check finds."""

import os
import os.path as osp
from typing import Any, List


class Report:
    """Findings, one line each.

    Attributes:
        errors: What will fail, or teach the model something wrong.
        warnings: What is left out, or strange.
    """

    def __init__(self) -> None:
        self.errors: List[str] = []
        self.warnings: List[str] = []

    def error(self, text: str) -> None:
        """Add an error."""
        self.errors.append(text)

    def warn(self, text: str) -> None:
        """Add a warning."""
        self.warnings.append(text)


def some(things: Any, count: int = 3) -> str:
    """The first few of some things, and how many more there are."""
    things = list(things)
    more = f' and {len(things) - count} more' if len(things) > count else ''
    return ', '.join(str(thing) for thing in things[:count]) + more


def report_missing(where: str, paths: List[str], report: Report) -> None:
    """Which files are not there, looking once into every folder."""
    there = {
        folder: set(os.listdir(folder or '.')) if osp.isdir(folder or '.') else set()
        for folder in {osp.dirname(path) for path in paths}
    }
    missing = [p for p in paths if osp.basename(p) not in there[osp.dirname(p)]]
    if missing:
        report.error(f'{where}: {len(missing)} of {len(paths)} files are missing: {some(missing)}')
