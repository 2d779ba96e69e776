"""Count parameters and FLOPs of all configs, into docs/model_zoo.md and configs/metafiles.

Examples:
    python tools/model_zoo.py
    python tools/model_zoo.py --check
    python tools/model_zoo.py mask_gg_t_1x upernet_gg_t_160k
"""

from __future__ import annotations

import argparse
import difflib
import json
import logging
import os.path as osp
import re
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config
from mmengine.logging import MMLogger
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from gcvit_mm import UserError, cli
from gcvit_mm.planning.complexity import (
    INPUT_SIZES,
    build_on_meta,
    count_macs_both_ways,
    count_parameters,
)
from gcvit_mm.zoo import read_entries

ROOT = Path(__file__).resolve().parents[1]
INDEX = ROOT / 'model-index.yml'
DOCUMENT = ROOT / 'docs' / 'model_zoo.md'
METAFILES = sorted((ROOT / 'configs' / 'metafiles').glob('*.yml'))
# What a metafile has of the counts, at the end of its Metadata.
COUNTED = re.compile(r'(, Parameters: \d+, FLOPs: \d+)?}$')
# Collections, which mim searches by their short names, as the page calls them.
TITLES = dict(gcvit='GC ViT', scalablevit='ScalableViT', gg='GG-Transformer', gpvit='GPViT')
LIMITS = (2, 5)  # differences in % of parameters and FLOPs above which a sentence is needed
# Data set: usual size, heading, and keys of the published results.
DATA = {
    'COCO 2017': ('800x1280', 'box AP / mask AP', ('box AP', 'mask AP')),
    'ADE20K': ('512x2048', 'mIoU / multi-scale', ('mIoU', 'mIoU (multi-scale)')),
    'ImageNet-1k': ('224x224', 'top-1', ('top-1',)),
}
INTRODUCTION = f"""\
# Model zoo

Written by `python tools/model_zoo.py` from `configs/` and `configs/metafiles/`.

**Ours** is counted on the models as the configs build them. Parameters (M) are those of the whole
model, auxiliary heads included. FLOPs (G) are multiply-accumulates of one image: convolutions,
linear layers and the products of attention (queries with keys, weights with values); once with
these products and once without, as some papers leave them out. Deformable attention has one product
for each value that it samples, that with its weight; the bilinear sampling itself is not counted.
Nor are norms, activations, softmax, pooling, interpolation and auxiliary heads. Two-stage detectors
see 1000 boxes and 100 masks. DINO is counted as mmdet tests it, on an image without padding:
encoder, choice of the queries among all tokens, decoder with its 900 queries, and the head behind
each of its layers.

**Paper** is what the authors print, at the size of the title unless another stands there; ours are
counted at the same. The count that the paper is compared with is in bold. A difference above
{LIMITS[0]}% of the parameters or {LIMITS[1]}% of the FLOPs is explained below its table. AP, mIoU
and accuracy are the authors': the last column says what was measured with this code.
"""


class Row(NamedTuple):
    """One config: its entry in the metafiles and what was counted."""

    name: str
    entry: dict
    schedule: str
    size: str
    parameters: float  # M
    macs: float  # G
    macs_without: float  # the same without the products of attention

    @property
    def published(self) -> dict:
        """What the authors print."""
        return self.entry['Published']

    @property
    def compared(self) -> float:
        """The count that is made as the paper's."""
        without = self.published.get('FLOPs leave out attention', False)
        return self.macs_without if without else self.macs


# ------------------------------------------------------------------- reading
def find_leaves(names: list[str], entries: dict, folder: Path = ROOT / 'configs') -> list[Path]:
    """Return the configs of the given names, or all but the demo's, in the order of the entries.

    Raises:
        UserError: If there is no such config, or no entry for one.
    """
    leaves = {path.stem: path for path in folder.glob('*.py')}
    for name in names:
        if name not in leaves:
            close = difflib.get_close_matches(name, leaves, n=1, cutoff=0.4)
            hint = f'did you mean {close[0]}?' if close else f'give the name of a file in {folder}'
            raise UserError(f'there is no config {name}: {hint}')
    wanted = names or [name for name in leaves if not name.endswith('_shapes')]
    missing = sorted(set(wanted) - set(entries))
    if missing:
        raise UserError(f'{", ".join(missing)}: no entry in configs/metafiles; add one')
    return [leaves[name] for name in entries if name in wanted]


# ------------------------------------------------------------------ counting
def identify(cfg: Config, size: str) -> str:
    """Return what configs share that have the same model at the same size."""
    model = cfg.model.to_dict()
    for key in ('drop_path_rate', 'init_cfg'):
        model['backbone'].pop(key, None)
    return json.dumps([model, size], sort_keys=True, default=str)


def count(cfg: Config, size: str) -> tuple:
    """Return parameters in M, and GMACs with and without the products of attention."""
    model = build_on_meta(cfg)
    height, width = map(int, size.split('x'))
    macs, without = count_macs_both_ways(model, (height, width))
    return count_parameters(model) / 1e6, macs['total'], without['total']


def schedule_of(cfg: Config) -> str:
    """Return the length of the training."""
    if 'max_iters' in cfg.train_cfg:
        return f'{cfg.train_cfg.max_iters // 1000}k iterations'
    return f'{cfg.train_cfg.max_epochs} epochs'


def build_rows(names: list[str], entries: dict) -> list[Row]:
    """Count the configs of the given names, or all; equal models are counted once."""
    rows, counted = [], {}
    leaves = find_leaves(names, entries)
    for path in track(leaves, 'counting', console=Console(stderr=True), transient=True):
        cfg, entry = Config.fromfile(path), entries[path.stem]
        usual = '{}x{}'.format(*INPUT_SIZES[cfg.default_scope])
        size = entry['Published'].get('FLOPs at', usual)
        key = identify(cfg, size)
        if key not in counted:
            counted[key] = count(cfg, size)
        rows.append(Row(path.stem, entry, schedule_of(cfg), size, *counted[key]))
    return rows


def difference(ours: float, paper: float | None) -> float | None:
    """Return the difference in percent of the paper's figure."""
    return None if paper is None else 100 * (ours - paper) / paper


def differences(row: Row) -> tuple:
    """Return the differences of parameters and of FLOPs in percent."""
    return (
        difference(row.parameters, row.published.get('Parameters (M)')),
        difference(row.compared, row.published.get('FLOPs (G)')),
    )


def is_far(row: Row) -> bool:
    """Whether a difference is above its limit."""
    pairs = zip(differences(row), LIMITS)
    return any(value is not None and abs(value) > limit for value, limit in pairs)


def check_notes(rows: list[Row]) -> None:
    """Check that every large difference is explained.

    Raises:
        UserError: If some are not.
    """
    names = [row.name for row in rows if is_far(row) and not row.published.get('Note')]
    if names:
        raise UserError(
            f'{", ".join(names)}: more than {LIMITS[0]}% of the parameters or {LIMITS[1]}% of the '
            'FLOPs away from the paper; explain it in Note of configs/metafiles'
        )


# ------------------------------------------------------------------- writing
def header(data: str) -> list[str]:
    """Return the names of the columns for one data set."""
    return [
        'config',
        'schedule',
        'parameters (M), ours',
        'paper',
        'difference',
        'FLOPs (G), ours',
        'without attention products',
        'paper',
        'difference',
        f'paper: {DATA[data][1]}',
        'measured here',
    ]


def flops_cells(row: Row, usual: str) -> list[str]:
    """Return our two counts, that which the paper's is compared with in bold, and the paper's.

    Args:
        row: The row.
        usual: Size at which FLOPs are counted where no other is named.
    """
    paper = str(row.published.get('FLOPs (G)', '-'))
    ours = [
        f'**{_giga(value)}**' if value == row.compared and paper != '-' else _giga(value)
        for value in (row.macs, row.macs_without)
    ]
    return [*ours, paper if row.size == usual else f'{paper} at {row.size}']


def cells(row: Row) -> list[str]:
    """Return the columns of a row."""
    data = row.entry['Metadata']['Training Data']
    usual, _, metrics = DATA[data]
    parameters, macs = map(_percent, differences(row))
    measured = [str(result['Metrics']) for result in row.entry.get('Results', [])]
    return [
        f'`{row.name}`',
        row.schedule,
        f'{row.parameters:.2f}',
        str(row.published.get('Parameters (M)', '-')),
        parameters,
        *flops_cells(row, usual),
        macs,
        ' / '.join(str(row.published[key]) for key in metrics if key in row.published) or '-',
        ', '.join(measured) or 'no',
    ]


def _giga(value: float) -> str:
    return f'{value:.1f}' if value >= 100 else f'{value:.2f}'


def _percent(value: float | None) -> str:
    return '-' if value is None else f'{round(value, 1) + 0.0:+.1f}%'  # + 0.0: no -0.0


def document(rows: list[Row]) -> str:
    """Return the page: a section a family, a table a data set, remarks below."""
    lines = [INTRODUCTION]
    for family in dict.fromkeys(row.entry['In Collection'] for row in rows):
        title = TITLES.get(family, family)
        lines += [f'## {title}', '']
        for data, (usual, _, _) in DATA.items():
            table = [
                row
                for row in rows
                if (row.entry['In Collection'], row.entry['Metadata']['Training Data'])
                == (family, data)
            ]
            if not table:
                continue
            titles = header(data)
            lines += [f'### {title}, {data}: FLOPs at {usual}', '']
            rule = ['---', '---', *['--:'] * (len(titles) - 3), '---']
            lines += [table_line(titles), table_line(rule)]
            lines += [table_line(cells(row)) for row in table]
            lines += ['', *_remarks(table)]
    return '\n'.join(lines).rstrip() + '\n'


def table_line(values: list[str]) -> str:
    return f'| {" | ".join(values)} |'


def _remarks(rows: list[Row]) -> list[str]:
    """Return notes and sources, each once, with the configs that they belong to."""
    lines = []
    for key, title in (('Note', 'Differences'), ('Source', 'Where the figures stand')):
        names: dict[str, list[str]] = {}
        for row in rows:
            if key in row.published:
                names.setdefault(row.published[key], []).append(f'`{row.name}`')
        if names:
            lines += [f'{title}:', '']
            lines += [f'- {", ".join(which)}: {text}' for text, which in names.items()] + ['']
    return lines


def with_counts(metafile: str, rows: list[Row]) -> str:
    """Return the text of a metafile with what was counted: the fields that mim and users read."""
    counts, lines, name = {row.name: row for row in rows}, [], ''
    for line in metafile.splitlines():
        if line.startswith('  - Name: '):
            name = line.split(': ')[1]
        if line.startswith('    Metadata: {') and name in counts:
            row = counts[name]
            fields = f'Parameters: {round(row.parameters * 1e6)}, FLOPs: {round(row.macs * 1e9)}'
            line = COUNTED.sub('', line) + f', {fields}}}'
        lines.append(line)
    return '\n'.join(lines) + '\n'


def print_rows(rows: list[Row]) -> None:
    """Print the columns of each config below one another: a terminal is not wide enough."""
    for row in rows:
        table = Table(title=f'{row.name}, FLOPs at {row.size}', box=box.SIMPLE, show_header=False)
        titles = header(row.entry['Metadata']['Training Data'])
        for title, value in list(zip(titles, cells(row)))[1:]:
            table.add_row(title, value.strip('*'))
        for key in ('Note', 'Source'):
            if key in row.published:
                table.add_row(key.lower(), row.published[key])
        Console().print(table)


def main(argv: list[str] | None = None) -> None:
    """Count, and write, check or print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('names', nargs='*', help='print these configs and write nothing')
    parser.add_argument(
        '--check', action='store_true', help='only say whether the files are up to date'
    )
    args = parser.parse_args(argv)
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)  # mmengine warns of every change of scope
    try:
        rows = build_rows([Path(name).stem for name in args.names], read_entries(INDEX))
    finally:
        logger.setLevel(level)
    check_notes(rows)
    if args.names:
        return print_rows(rows)
    texts = {path: with_counts(path.read_text(), rows) for path in METAFILES}
    texts[DOCUMENT] = document(rows)
    old = [path for path in texts if not path.exists() or path.read_text() != texts[path]]
    if args.check and old:
        name = osp.relpath(old[-1], ROOT)
        raise UserError(f'{name} is out of date: run python tools/model_zoo.py')
    for path in old:
        path.write_text(texts[path])
    if not args.check:
        print(f'wrote {DOCUMENT} and {len(METAFILES)} metafiles: {len(rows)} configs')


if __name__ == '__main__':
    cli.run_tool(main)
