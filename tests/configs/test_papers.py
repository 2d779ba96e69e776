"""The map from the papers' rows to commands: what it names, and the page made of it."""

import random
import re
import shlex

import pytest

from support.configs import CONFIGS, read_config
from support.in_process import tool
from support.running import ROOT

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')

import model_zoo
import papers
from benchmark import command, tables

from gcvit_mm import UserError

PAPERS = papers.read_papers()
ROWS = papers.rows_of(PAPERS)
# What the papers do not have: recipes of 2023, windows of releases, and what only READMEs have.
NOT_IN_PAPERS = re.compile(
    r'cls_gcvit_.*|dino_gcvit_.*|mask_gcvit_t_1x|(mask|cascade)_gcvit_t_w24_3x|'
    r'upernet_gcvit_[sb]_160k|(mask|retinanet)_scalablevit_l_.*'
)


def test_every_config_has_a_row():
    """Every ablation and every config of a printed result is found from its table."""
    named = {row['Config'] for row in ROWS}
    ablations = {f'ablations/{path.stem}' for path in (CONFIGS / 'ablations').glob('*.py')}
    assert ablations <= named
    main = {p.stem for p in CONFIGS.glob('*.py') if not p.stem.endswith('shapes')}
    assert {name for name in main if not NOT_IN_PAPERS.fullmatch(name)} == named - ablations


def test_ablations_are_named_after_their_table():
    """gg_table4b_gaze_only stands in Table 4b of GG-Transformer; one of an appendix says so."""
    families = dict(gcvit='GC ViT', gg='GG-Transformer', gpvit='GPViT', scalablevit='ScalableViT')
    places = {}
    for paper in PAPERS:
        for table in paper['Tables']:
            for row in table['Rows']:
                words = re.sub(r'[ .]', '', table['Table'] + ' ' + row['Row']).lower()
                places.setdefault(row['Config'], []).append((paper['Paper'], words))
    for config, found in places.items():
        folder, _, name = config.rpartition('/')
        if folder:
            family, place = name.split('_')[:2]
            place = place.replace('appendixb', ',b')
            assert any(p == families[family] and place in words for p, words in found), config


TABLES = {
    'GC ViT': '1 2 3 4 5 S.1 S.2',
    'GG-Transformer': '1 2 3 4a 4b 4c',
    'GPViT': '1 2 3 4 5 6 7 8 9 10 11 12 13',
    'ScalableViT': '1 2 3 4 5a 5b 6 7 8',
}


def test_papers_are_complete():
    """All tables of the four papers are there, or named in the text about them."""
    assert [paper['Paper'] for paper in PAPERS] == list(TABLES)
    for paper in PAPERS:
        texts = [paper['Source']]
        for table in paper['Tables']:
            texts += [table['Table'], table.get('Below', '')]
        found = re.findall(r'Tables? (\S+)(?: and (\S+))?', ' '.join(texts))
        numbers = {number.rstrip('.,') for pair in found for number in pair}
        assert set(TABLES[paper['Paper']].split()) <= numbers, paper['Paper']


def page_rows():
    """Cells of all rows on the page."""
    lines = papers.DOCUMENT.read_text().splitlines()
    return [line[2:-2].split(' | ') for line in lines if line.startswith('| ') and '`' in line]


def test_page_has_the_rows():
    """Names, commands and figures of the papers are those of papers.yml, in its order."""
    assert len(page_rows()) == len(ROWS)
    for cells, row in zip(page_rows(), ROWS):
        assert cells[0] == row['Row'] and cells[2] == f'`{papers.command(row)}`'
        assert cells[4] == str(row.get('Parameters (M)') or '-')
        assert cells[7].split(' at ')[0] == str(row.get('FLOPs (G)') or '-')
        results = [f'{k} {row[k]}' for k in papers.METRICS if row.get(k) is not None]
        assert cells[8] == (', '.join(results) or '-')


def test_some_rows_are_counted_as_on_the_page():
    """A few of ImageNet, drawn anew in every run; tests/e2e counts all."""
    small = re.compile(r'ablations/(gg|gpvit)_table(?!.*_segformer)')
    for i in random.sample([i for i, row in enumerate(ROWS) if small.match(row['Config'])], 2):
        (row,) = papers.count_rows([ROWS[i]])
        assert papers.cells(row) == page_rows()[i], 'run python tools/papers.py'


def test_commands_run():
    """Tools take the arguments of every command, and its options change what is there."""
    for row in ROWS:
        python, path, *words = shlex.split(papers.command(row))
        assert python == 'python'
        if path == 'tools/benchmark.py':
            args = command.parse_args([word for word in words if word not in ('--device', 'cuda')])
            entries = tables.TABLES[args.table].entries
            assert [entry.name for entry in entries if args.only in entry.name] == [row['Row']]
            continue
        assert path == 'tools/train.py' and (ROOT / words[0]).is_file()
        args = tool('train.py').parse_args(words)
        options = row.get('Options', {})
        assert (args.cfg_options or {}) == options
        cfg = read_config(row['Config']) if options else None
        for key in options:
            section = cfg
            for part in key.split('.')[:-1]:
                section = section[part]


# ---------------------------------------------------------------- the tool
ENTRY = """
- Paper: A
  Source: Text.
  Tables:
    - Table: Table 1
      About: accuracy
      Defaults: {FLOPs leave out attention: true}
      Rows:
        - {Row: T, Config: cls_gg_t_300e, Parameters (M): 28, FLOPs (G): 4.4, top-1: 80}
"""


@pytest.fixture
def example(tmp_path, monkeypatch):
    """A paper of one row, counted as 28.35 M and 4.55 (4.41) G without being built."""
    monkeypatch.setattr(model_zoo, 'count', lambda cfg, size: (28.35, 4.55, 4.41))
    monkeypatch.setattr(papers, 'DOCUMENT', tmp_path / 'page.md')
    file = tmp_path / 'papers.yml'
    file.write_text(ENTRY)
    read = papers.read_papers
    monkeypatch.setattr(papers, 'read_papers', lambda: read(file))
    return file


def test_check_fails_on_an_old_page(example):
    """--check passes on what was written, and fails once it differs or is missing."""
    with pytest.raises(UserError, match='out of date'):
        papers.main(['--check'])
    papers.main([])
    papers.main(['--check'])
    page = papers.DOCUMENT.read_text()
    assert '| 28.35 | 28 | 4.55 | **4.41** | 4.4 | top-1 80 |' in page
    assert '`python tools/train.py configs/cls_gg_t_300e.py`' in page
    papers.DOCUMENT.write_text(page.replace('top-1 80', 'top-1 81'))
    with pytest.raises(UserError, match='out of date'):
        papers.main(['--check'])


@pytest.mark.parametrize(
    'figures',
    [
        'Parameters (M): 27, FLOPs (G): 4.4',
        'Parameters (M): 28, FLOPs (G): 4.1',
        'Parameters (M): 28, FLOPs (G): 4.3, FLOPs leave out attention: false',
    ],
)
def test_large_differences_need_a_note(example, figures):
    """Of the parameters, or of that count of FLOPs which is compared."""
    text = ENTRY.replace('Parameters (M): 28, FLOPs (G): 4.4', figures)
    example.write_text(text)
    with pytest.raises(UserError, match=r'T \(cls_gg_t_300e\): our counts are far'):
        papers.main([])
    example.write_text(text.replace('top-1', 'Note: Cut., top-1'))
    papers.main([])
    assert '- T: Cut.' in papers.DOCUMENT.read_text()


def test_notes_of_metafiles_explain_differences_only(example):
    """GPViT-L1 has one about its parameters, which is left out where they are not printed."""
    for printed, shown in (('9.3', True), ('null', False)):
        text = ENTRY.replace('cls_gg_t_300e', 'cls_gpvit_l1_300e').replace('28', printed)
        example.write_text(text.replace('4.4', 'null'))
        papers.main([])
        assert ('- T: The printed 9.3 M' in papers.DOCUMENT.read_text()) == shown


@pytest.mark.parametrize(
    ('change', 'line'),
    [
        (('Row: T', 'Rwo: T'), 'A, Table 1, None: Rwo is shown nowhere'),
        (('top-1', 'top1'), 'A, Table 1, T: top1 is shown nowhere'),
        (('cls_gg_t_300e', 'cls_gg_t_301e'), 'T: there is no config cls_gg_t_301e'),
        ((', Config: cls_gg_t_300e', ''), 'T: there is no config None'),
    ],
)
def test_broken_rows(example, change, line):
    """Misspelt keys and configs are named with the table they stand in."""
    example.write_text(ENTRY.replace(*change))
    with pytest.raises(UserError, match=re.escape(line)):
        papers.main(['--check'])


def test_missing_file(tmp_path):
    """It is named."""
    with pytest.raises(UserError, match=r'papers\.yml does not exist'):
        papers.read_papers(tmp_path / 'papers.yml')


def test_options_and_defaults_count(example):
    """Options change what is counted; a row goes before its table, and that before metafiles."""
    example.write_text(
        ENTRY.replace('top-1: 80', 'top-1: null, Options: {model.backbone.arch: small}')
    )
    (row,) = papers.rows_of(papers.read_papers())
    assert papers.read_config(row).model.backbone.arch == 'small'
    assert row['FLOPs leave out attention'] is True and row['top-1'] is None
    assert papers.command(row).endswith('--cfg-options model.backbone.arch=small')
    (counted,) = papers.count_rows([row])
    assert papers.cells(counted)[-1] == '-'
