"""The page of models is what tools/model_zoo.py makes of all configs, and near the papers."""

import re

import pytest

from support.running import ROOT

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')

import model_zoo

ENTRIES = model_zoo.read_entries()
LEAVES = [p.stem for p in sorted((ROOT / 'configs').glob('*.py')) if not p.stem.endswith('shapes')]


@pytest.fixture(scope='module')
def rows():
    """All configs, counted."""
    return model_zoo.build_rows([], ENTRIES)


def test_page_is_up_to_date(rows):
    """The page is what the configs and the metafiles make; large differences are explained."""
    model_zoo.check_notes(rows)
    assert [row.name for row in rows] == [name for name in ENTRIES if name in LEAVES]
    page = model_zoo.document(rows)
    assert model_zoo.DOCUMENT.read_text() == page, 'run python tools/model_zoo.py'
    for path in model_zoo.METAFILES:
        text = path.read_text()
        assert text == model_zoo.with_counts(text, rows), 'run python tools/model_zoo.py'


# By how many % FLOPs may differ from the paper, and how many rows have a printed figure.
NEAR = {
    r'(mask|cascade)_gcvit': (1, 5),
    r'(?!cls).*_(scalablevit|gg)_': (3, 22),
    r'cls_(scalablevit|gg|ggdeit)_': (3, 3),
    r'(mask|retinanet|upernet)_gpvit_': (1, 12),
}


@pytest.mark.parametrize('names', NEAR)
def test_macs_are_near_the_papers(rows, names):
    """Whichever way the papers count them; the shipped detectors of GC ViT within 1%."""
    limit, least = NEAR[names]
    values = {row.name: model_zoo.differences(row)[1] for row in rows if re.match(names, row.name)}
    values = {name: value for name, value in values.items() if value is not None}
    assert len(values) >= least
    assert {name: value for name, value in values.items() if not abs(value) < limit} == {}


def test_parameters_are_near_the_papers(rows):
    """Detectors and segmentors within 2%; GPViT's paper cuts the decimals of its millions."""
    dense = [row for row in rows if not row.name.startswith('cls')]
    values = {row.name: model_zoo.differences(row)[0] for row in dense if '_gpvit_' not in row.name}
    values = {name: value for name, value in values.items() if value is not None}
    assert len(values) >= 25
    assert {name: value for name, value in values.items() if not abs(value) < 2} == {}
