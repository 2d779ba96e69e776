"""Write docs/papers.md: for every row of the papers' tables its command, our counts, their figures.

Examples:
    python tools/papers.py
    python tools/papers.py --check
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import NamedTuple

import model_zoo
import yaml
from mmengine.config import Config
from mmengine.logging import MMLogger
from model_zoo import table_line
from rich.console import Console
from rich.progress import track

from gcvit_mm import UserError, cli
from gcvit_mm.planning.complexity import INPUT_SIZES

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / 'configs' / 'papers.yml'
DOCUMENT = ROOT / 'docs' / 'papers.md'
DATA = dict(mmdet='COCO', mmseg='ADE20K', mmpretrain='ImageNet')
METRICS = ('top-1', 'box AP', 'mask AP', 'mIoU', 'mIoU (multi-scale)', 'speed')
COUNTED = ('Parameters (M)', 'FLOPs (G)', 'FLOPs at', 'FLOPs leave out attention')
KEYS = {'Row', 'Config', 'Options', 'Speed', 'Note', *COUNTED, *METRICS}
TITLES = [
    'row',
    'data',
    'command',
    'parameters (M), ours',
    'paper',
    'FLOPs (G), ours',
    'without attention products',
    'paper',
    'paper: result',
]
INTRODUCTION = """\
# From a row of a paper to a command

Written by `python tools/papers.py` from `configs/papers.yml` and `configs/metafiles/`.

Every table of the four papers about models or results, with the command that trains each row
(`tools/dist_train.sh CONFIG 8` on several GPUs), or measures it where the row is about speed. Left
out are the rows of other authors' models, which their code trains. Where a row has several columns
it has a line for each. Detectors and segmentors of ablations start from the classifier of their
row, which is to be trained first (they name its last checkpoint in `work_dirs/`), the others as
their configs say. How the configs are named, and what the papers leave open, stands in
[configs](configs.md).

**Ours** is counted as in the [model zoo](model_zoo.md); the count that is made as the paper's is in
bold, and a difference above {}% of the parameters or {}% of the FLOPs is explained below its table.
**Nothing in the columns of the paper was measured with this code.**
""".format(*model_zoo.LIMITS)


class Row(NamedTuple):
    """A row of a table: what the file says of it, and what was counted."""

    entry: dict
    command: str
    data: str
    counts: model_zoo.Row


# ------------------------------------------------------------------- reading
def read_papers(file: Path = FILE, index: Path = model_zoo.INDEX) -> list[dict]:
    """Read the papers, with what the metafiles have of the configs in their rows.

    Raises:
        UserError: If a file is missing, a row has a key that nothing shows, or no config.
    """
    entries = model_zoo.read_entries(index)
    try:
        papers = yaml.safe_load(file.read_text())
    except OSError as error:
        raise UserError(f'{file} does not exist: it holds the rows of the papers') from error
    for paper in papers:
        for table in paper['Tables']:
            where = f'{file.name}: {paper["Paper"]}, {table["Table"]}'
            table['Rows'] = [_whole(row, table, entries, where) for row in table['Rows']]
    return papers


def _whole(row: dict, table: dict, entries: dict, where: str) -> dict:
    """A row with the defaults of its table and the entry of its config."""
    if unknown := sorted(set(row) - KEYS):
        raise UserError(f'{where}, {row.get("Row")}: {unknown[0]} is shown nowhere: correct it')
    if not (ROOT / 'configs' / f'{row.get("Config")}.py').is_file():
        raise UserError(f'{where}, {row.get("Row")}: there is no config {row.get("Config")}')
    known = entries.get(row['Config'], {}).get('Published', {})
    return {**known, **table.get('Defaults', {}), **row, 'Own note': 'Note' in row}


def rows_of(papers: list[dict]) -> list[dict]:
    """Return all rows of all tables, in their order."""
    return [row for paper in papers for table in paper['Tables'] for row in table['Rows']]


def read_config(row: dict) -> Config:
    """Read the config of a row, with its options."""
    cfg = Config.fromfile(ROOT / 'configs' / f'{row["Config"]}.py')
    cfg.merge_from_dict(row.get('Options', {}))
    return cfg


def command(row: dict) -> str:
    """Return the command of a row."""
    if 'Speed' in row:
        table, name = row['Speed'], row['Row']
        return f'python tools/benchmark.py --table {table} --only {name} --device cuda'
    options = [f'{key}={value}' for key, value in row.get('Options', {}).items()]
    words = ['--cfg-options', *options] if options else []
    return ' '.join([f'python tools/train.py configs/{row["Config"]}.py', *words])


# ------------------------------------------------------------------ counting
def count_rows(rows: list[dict], counted: dict | None = None) -> list[Row]:
    """Count the models of rows; equal ones once, and those in ``counted`` not again."""
    counted, built = {} if counted is None else counted, []
    for row in track(rows, 'counting', console=Console(stderr=True), transient=True):
        cfg = read_config(row)
        size = row.get('FLOPs at') or '{}x{}'.format(*INPUT_SIZES[cfg.default_scope])
        key = model_zoo.identify(cfg, size)
        if key not in counted:
            counted[key] = model_zoo.count(cfg, size)
        entry = {'Published': {key: value for key, value in row.items() if value is not None}}
        counts = model_zoo.Row(row['Row'], entry, '', size, *counted[key])
        built.append(Row(row, command(row), DATA[cfg.default_scope], counts))
    return built


def check_notes(rows: list[Row]) -> None:
    """Check that every large difference is explained.

    Raises:
        UserError: If one is not.
    """
    for row in rows:
        if model_zoo.is_far(row.counts) and not row.entry.get('Note'):
            raise UserError(
                f'{row.entry["Row"]} ({row.entry["Config"]}): our counts are far from the paper; '
                'explain it in its Note'
            )


# ------------------------------------------------------------------- writing
def cells(row: Row) -> list[str]:
    """Return the columns of a row."""
    published = row.counts.published
    usual = INPUT_SIZES[next(scope for scope, data in DATA.items() if data == row.data)]
    results = [f'{key} {published[key]}' for key in METRICS if key in published]
    return [
        row.entry['Row'],
        row.data,
        f'`{row.command}`',
        f'{row.counts.parameters:.2f}',
        str(published.get('Parameters (M)', '-')),
        *model_zoo.flops_cells(row.counts, '{}x{}'.format(*usual)),
        ', '.join(results) or '-',
    ]


def document(papers: list[dict], rows: list[Row]) -> str:
    """Return the page: a section a paper, a table a table, remarks below."""
    lines, rest = [INTRODUCTION], iter(rows)
    for paper in papers:
        lines += [f'## {paper["Paper"]}', '', paper['Source'], '']
        for table in paper['Tables']:
            lines += [f'### {paper["Paper"]}, {table["Table"]}: {table["About"]}', '']
            lines += [table_line(TITLES), table_line(['---'] * 3 + ['--:'] * 5 + ['---'])]
            here = [next(rest) for _ in table['Rows']]
            lines += [table_line(cells(row)) for row in here] + ['']
            lines += [table['Below'], ''] if 'Below' in table else []
            lines += _notes(here)
    return '\n'.join(lines).rstrip() + '\n'


def _notes(rows: list[Row]) -> list[str]:
    """What rows say, and what metafiles say of large differences; each once, with its rows."""
    notes: dict[str, list[str]] = {}
    for row in rows:
        if row.entry['Own note'] or model_zoo.is_far(row.counts):
            notes.setdefault(row.entry['Note'], []).append(row.entry['Row'])
    lines = [f'- {"; ".join(dict.fromkeys(names))}: {note}' for note, names in notes.items()]
    return [*lines, ''] if lines else []


def main(argv: list[str] | None = None) -> None:
    """Count, and write or check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--check', action='store_true', help='only say whether docs/papers.md is up to date'
    )
    args = parser.parse_args(argv)
    papers = read_papers()
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)  # mmengine warns of every change of scope
    try:
        rows = count_rows(rows_of(papers))
    finally:
        logger.setLevel(level)
    check_notes(rows)
    page = document(papers, rows)
    if not args.check:
        DOCUMENT.write_text(page)
        print(f'wrote {DOCUMENT}: {len(rows)} rows')
    elif not DOCUMENT.exists() or DOCUMENT.read_text() != page:
        raise UserError('docs/papers.md is out of date: run python tools/papers.py')


if __name__ == '__main__':
    cli.run_tool(main)
