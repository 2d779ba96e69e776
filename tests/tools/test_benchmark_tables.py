"""The papers' tables of speed: what runs, and what a lack of memory does. No time is judged."""

import json

import pytest
import torch
from benchmark import command as tool
from benchmark import tables
from torch import nn

from gcvit_mm.planning.complexity import count_parameters
from support.running import CLS

pytest.importorskip('mmpretrain')
SMALL = tables.Table(
    'A paper, Table 1',
    'V100, batch 192',
    'images/s',
    2,
    ((64, 64), (64, 96)),
    [tables.Entry('first', CLS, (854, 'OOM')), tables.Entry('second', CLS, (778, 12.5))],
)


class Greedy(nn.Module):
    """Asks for more memory than any machine can address."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images):
        return self.weight * torch.empty(2**50)


def run(tmp_path, *argv):
    """Run the tool on few rounds; return the rows that it wrote."""
    out = tmp_path / 'out.json'
    words = ['--table', 'small', *argv, '--rounds', '2', '--warmups', '0', '--json', out]
    tool.main([str(word) for word in words])
    return json.loads(out.read_text())['table']


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A table of two small classifiers."""
    monkeypatch.setitem(tables.TABLES, 'small', SMALL)


# ------------------------------------------------------------------- what runs
@pytest.mark.parametrize(
    ('table', 'name', 'millions'),
    [
        ('gcvit2', 'GC ViT-XXT', 12),
        ('scalablevit6', 'ScalableViT-S', 32),
        ('gpvit10', 'GPViT-L4', 75.4),
        ('gpvit10', 'ViT-D216-P8', 7.4),
        ('gpvit10', 'ViT-D432-P8', 28.5),
    ],
)
def test_models_are_the_papers(table, name, millions):
    """Parameters as the tables print them, within 1.5%; the heads give 1000 classes."""
    (entry,) = [e for e in tables.TABLES[table].entries if e.name == name]
    with torch.device('meta'):
        model = tables.build_classifier(entry).eval()
    assert count_parameters(model) / 1e6 == pytest.approx(millions, rel=0.015)
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 224, 224, device='meta')).shape == (1, 1000)


def test_patches_of_16_are_a_quarter_of_the_tokens():
    """The two baselines of a width differ in the stride alone."""
    entries = {entry.name: entry for entry in tables.TABLES['gpvit10'].entries}
    with torch.device('meta'):
        strides = [
            tables.build_classifier(entries[f'ViT-D216-P{patch}']).backbone.patch_size
            for patch in (8, 16)
        ]
    assert strides == [8, 16]


@pytest.mark.parametrize('name', ['gcvit2', 'scalablevit6', 'gpvit10'])
def test_tables_are_whole(name):
    """A figure of the paper for every size, no model twice; every config is there."""
    table = tables.TABLES[name]
    names = [entry.name for entry in table.entries]
    assert len(set(names)) == len(names)
    for entry in table.entries:
        assert len(entry.paper) == len(table.sizes)
        assert tables.read_config(entry).model.type == 'ImageClassifier'


# ------------------------------------------------------------------- the tool
def test_rows(tmp_path, capsys):
    """Ours in images/s and ms, the paper's figures beside it, at every size of the table."""
    rows = run(tmp_path)
    assert [(row['model'], row['size'], row['paper']) for row in rows] == [
        ('first', [64, 64], 854),
        ('first', [64, 96], 'OOM'),
        ('second', [64, 64], 778),
        ('second', [64, 96], 12.5),
    ]
    for row in rows:
        assert row['batch'] == 2 and row['mode'] == 'forward' and not row['out_of_memory']
        assert row['images_per_s'] == pytest.approx(2 / row['time']['median'])
    title, header, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith('A paper, Table 1: ours with forward, fp32, batch 2; the paper: V100')
    assert 'images/s' in header and header.endswith('images/s, paper')
    for line, row in zip(lines, rows):
        words = line.split()
        assert words[0] == row['model'] and f'{row["images_per_s"]:.4g}' in words
        assert words[-1] == str(row['paper'])


def test_other_sizes_batches_and_precisions(tmp_path):
    """No figure of the paper belongs to another size."""
    argv = ('--only', 'sec', '--size', 32, 64, '--batch', 3, '--dtype', 'bf16')
    (row,) = run(tmp_path, *argv, '--mode', 'training')
    assert (row['model'], row['size'], row['batch']) == ('second', [32, 64], 3)
    assert row['dtype'] == 'bf16' and row['mode'] == 'training' and row['paper'] is None


def test_out_of_memory_is_a_row(tmp_path, monkeypatch, capsys):
    """What does not fit is said so, and the next one runs."""
    build = tables.build_classifier
    monkeypatch.setattr(
        tables, 'build_classifier', lambda e: Greedy() if e.name == 'first' else build(e)
    )
    rows = run(tmp_path, '--size', 64, 64, '--plot', tmp_path / 'out.png')
    assert (tmp_path / 'out.png').stat().st_size > 1000
    assert [row['out_of_memory'] for row in rows] == [True, False]
    assert 'time' not in rows[0] and rows[1]['images_per_s'] > 0
    lines = capsys.readouterr().out.splitlines()
    assert 'out of memory' in lines[2] and lines[2].endswith('854')
    assert 'out of memory' not in lines[3]


def test_other_errors_end_the_run(tmp_path, monkeypatch):
    """Only a lack of memory is a result."""
    monkeypatch.setattr(tables, 'build_classifier', lambda entry: nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match='mat1 and mat2'):
        run(tmp_path)


@pytest.mark.parametrize(
    'error',
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB'),
        RuntimeError('CUDA error: out of memory'),
        RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`'),
    ],
)
def test_what_counts_as_out_of_memory(error):
    assert tables.is_out_of_memory(error)
    assert not tables.is_out_of_memory(RuntimeError('CUDA error: device-side assert triggered'))
