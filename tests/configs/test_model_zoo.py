"""The metafiles and the page made of them."""

import re

import pytest

from support.configs import read_config
from support.running import ROOT

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')

import model_zoo

from gcvit_mm import UserError

ENTRIES = model_zoo.read_entries()
LEAVES = [p.stem for p in sorted((ROOT / 'configs').glob('*.py')) if not p.stem.endswith('shapes')]
DATASETS = {
    'CocoDataset': 'COCO 2017',
    'ADE20KDataset': 'ADE20K',
    'ImageNet': 'ImageNet-1k',
}


def example(**published):
    """A row of 50 M parameters and 100 (90) GMACs."""
    metadata = {'Training Data': 'ADE20K'}
    entry = {'In Collection': 'A', 'Metadata': metadata, 'Published': published}
    return model_zoo.Row('upernet_a', entry, '160k iterations', '512x2048', 50.0, 100.0, 90.0)


# ---------------------------------------------------------------- metafiles
def test_every_entry_has_its_config():
    """An entry without config is one that mim finds and cannot use."""
    for name, entry in ENTRIES.items():
        assert entry['Config'] == f'configs/{name}.py'
        assert (ROOT / entry['Config']).is_file(), f'{name} has an entry but no config'


@pytest.mark.parametrize('name', LEAVES)
def test_metadata_are_those_of_the_config(name):
    """Data, length and batch size of the entry are what the config has."""
    metadata = ENTRIES[name]['Metadata']
    cfg = read_config(name)
    dataset = cfg.train_dataloader.dataset
    assert metadata['Training Data'] == DATASETS[dataset.get('dataset', dataset).type]
    assert metadata['Batch Size'] == cfg.auto_scale_lr.base_batch_size
    assert metadata.get('Epochs') == cfg.train_cfg.get('max_epochs')
    assert metadata.get('Iterations') == cfg.train_cfg.get('max_iters')


def test_published_is_what_the_page_shows():
    """No key is misspelt, and no result stands at the wrong data set."""
    counted = {'Parameters (M)', 'FLOPs (G)', 'FLOPs at', 'FLOPs leave out attention'}
    for name, entry in ENTRIES.items():
        results = set(model_zoo.DATA[entry['Metadata']['Training Data']][2])
        assert set(entry['Published']) <= counted | results | {'Note', 'Source'}, name


@pytest.mark.parametrize('name', [name for name in LEAVES if re.search(r'_(384|512)$', name)])
def test_larger_images_are_counted_at_their_size(name):
    """Fine-tuned classifiers are counted at the size of their name, which is that of the test."""
    size = name.split('_')[-1]
    assert ENTRIES[name]['Published']['FLOPs at'] == f'{size}x{size}'
    cfg = read_config(name)
    sizes = [step.get('scale', step.get('crop_size')) for step in cfg.test_pipeline]
    assert int(size) in sizes or (int(size), int(size)) in sizes


def test_modelindex_reads_them():
    """The library that mim uses finds every model and its collection, and no fault."""
    load = pytest.importorskip('modelindex.load_model_index').load
    index = load(str(model_zoo.INDEX))
    assert index.check(silent=True) == []
    assert {model.name for model in index.models} == set(ENTRIES)
    collections = {collection.name for collection in index.collections}
    assert {model.in_collection for model in index.models} == collections


def test_counts_go_into_the_metafiles():
    """Into the entry of their config, again and again."""
    text = """Collections:
  - Name: upernet_a
    Metadata: {Architecture: [x]}
Models:
  - Name: upernet_a
    Metadata: {Training Data: ADE20K, Batch Size: 16}
  - Name: other
    Metadata: {Training Data: ADE20K, Batch Size: 16, Parameters: 7, FLOPs: 9}
"""
    row = example()
    written = model_zoo.with_counts(text.split('Models:')[1], [row])
    assert 'Batch Size: 16, Parameters: 50000000, FLOPs: 100000000000}' in written
    assert 'Batch Size: 16, Parameters: 7, FLOPs: 9}' in written
    assert model_zoo.with_counts(written, [row]) == written


def test_counts_are_what_mim_shows():
    """Every entry has its parameters and FLOPs where modelindex looks for them."""
    for name, entry in ENTRIES.items():
        metadata = entry['Metadata']
        assert isinstance(metadata['Parameters'], int), name
        assert isinstance(metadata['FLOPs'], int), name
    assert f'{ENTRIES["mask_gg_t_1x"]["Metadata"]["Parameters"] / 1e6:.2f}' == '47.86'


# ---------------------------------------------------------------- the page
def test_check_fails_on_an_old_page(tmp_path, monkeypatch):
    """--check passes on what was written, and fails once it differs or is missing."""
    monkeypatch.setattr(model_zoo, 'DOCUMENT', tmp_path / 'page.md')
    row = example(**{'Parameters (M)': 50, 'mIoU': 41.5})
    monkeypatch.setattr(model_zoo, 'build_rows', lambda names, entries: [row])
    with pytest.raises(UserError, match='out of date'):
        model_zoo.main(['--check'])
    model_zoo.main([])
    model_zoo.main(['--check'])
    page = model_zoo.DOCUMENT.read_text()
    model_zoo.DOCUMENT.write_text(page.replace('41.5', '41.6'))
    with pytest.raises(UserError, match='out of date'):
        model_zoo.main(['--check'])


def test_names_are_printed_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    """With names the figures of these configs go to the terminal."""
    monkeypatch.setattr(model_zoo, 'DOCUMENT', tmp_path / 'page.md')
    model_zoo.main(['configs/upernet_gg_t_160k.py'])
    printed = capsys.readouterr().out
    assert '1024x1024' in printed and '46.4 / 47.2' in printed and '60.01' in printed
    assert not model_zoo.DOCUMENT.exists()


def test_large_differences_need_a_note():
    """Above 2% of the parameters or 5% of the FLOPs, and not below."""
    near = example(**{'Parameters (M)': 49.1, 'FLOPs (G)': 95.5})
    model_zoo.check_notes([near])
    for published in ({'Parameters (M)': 48.9}, {'FLOPs (G)': 94}, {'FLOPs (G)': 106}):
        with pytest.raises(UserError, match='upernet_a.*Note'):
            model_zoo.check_notes([near, example(**published)])
        model_zoo.check_notes([example(Note='The paper counts otherwise.', **published)])


def test_compares_with_the_count_of_the_paper():
    """A paper that leaves out attention is compared with the count that does, in bold."""
    row = example(**{'FLOPs (G)': 90})
    assert model_zoo.differences(row) == (None, pytest.approx(100 / 9))
    assert '**100.0**' in model_zoo.cells(row)
    row = example(**{'FLOPs (G)': 90, 'FLOPs leave out attention': True})
    assert model_zoo.differences(row) == (None, 0)
    assert '**90.00**' in model_zoo.cells(row) and '100.0' in model_zoo.cells(row)


def test_nothing_is_claimed_as_measured():
    """Only an entry with results says that something was measured here."""
    assert model_zoo.cells(example(mIoU=41.5))[-2:] == ['41.5', 'no']
    row = example(mIoU=41.5)
    row.entry['Results'] = [{'Task': 'Segmentation', 'Metrics': {'mIoU': 40.9}}]
    assert '40.9' in model_zoo.cells(row)[-1]


def test_equal_models_are_counted_once(monkeypatch):
    """1x and 3x differ in drop path and schedule: one count. S and B are two, so are two sizes."""
    calls = []
    monkeypatch.setattr(model_zoo, 'count', lambda cfg, size: calls.append(size) or (1.0, 2.0, 1.0))
    names = ['mask_scalablevit_b_1x', 'mask_scalablevit_s_3x', 'mask_scalablevit_s_1x']
    assert [row.name for row in model_zoo.build_rows(names, ENTRIES)] == names[::-1]
    assert len(calls) == 2
    cfg = read_config('upernet_gg_t_160k')
    assert model_zoo.identify(cfg, '512x512') != model_zoo.identify(cfg, '512x2048')


def test_leaf_without_entry():
    """A new config needs an entry; a misspelt name gets the nearest."""
    entries = {name: entry for name, entry in ENTRIES.items() if name != 'mask_gg_t_1x'}
    with pytest.raises(UserError, match='mask_gg_t_1x: no entry in configs/metafiles'):
        model_zoo.find_leaves([], entries)
    with pytest.raises(UserError, match='no config mask_gg_t_3y: did you mean mask_gg_t_1x'):
        model_zoo.find_leaves(['mask_gg_t_3y'], ENTRIES)


def test_broken_metafiles(tmp_path):
    """A missing file and a name that stands twice are named."""
    index = tmp_path / 'model-index.yml'
    index.write_text('Import: [a.yml]')
    with pytest.raises(UserError, match=r'a\.yml does not exist'):
        model_zoo.read_entries(index)
    (tmp_path / 'a.yml').write_text('Models: [{Name: x}, {Name: x}]')
    with pytest.raises(UserError, match=r'a\.yml has x again'):
        model_zoo.read_entries(index)
