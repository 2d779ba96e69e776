"""Spoilt images, annotations and label maps, drawn by hypothesis: used, or one line about them.

Every case goes through what tools/train.py asks before it builds anything, and then through the
data set as the training's data loader has it.
"""

import copy
import functools
import gc
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from make_shapes import make_shapes
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner

from gcvit_mm import UserError, cli
from gcvit_mm.datacheck import check, pipeline
from gcvit_mm.datacheck.folders import check_data
from support.fuzzing import fuzz
from support.running import CLS, DET, FOLDERS, ROOT, SEG

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')
pytest.importorskip('mmcv._ext', reason='the compiled ops of mmcv are not installed')

ANNOTATIONS = 'coco/annotations/instances_train2017.json'
FIX = r'replace|take|correct|fix|draw|mark|add |set |must|check-data|it is no|give|name '


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A few drawn shapes; every case spoils and fixes them."""
    folder = tmp_path_factory.mktemp('spoilt') / 'shapes'
    make_shapes(folder, dict(train=3, val=1, size=64, seed=0, cls_train=5, cls_val=5))
    gc.freeze()  # data sets collect garbage when they are built, which is slow beside torch
    yield folder
    gc.unfreeze()


@functools.lru_cache(maxsize=None)
def demo(name):
    """A config of the demo, read once."""
    return Config.fromfile(ROOT / name)


def config(name, data):
    """A config of the demo on these data, loaded in this process."""
    cfg = copy.deepcopy(demo(name))
    cli.replace_data_root(cfg, str(data / FOLDERS[name]))
    init_default_scope(cfg.default_scope)
    cfg.train_dataloader.num_workers = 0
    cfg.train_dataloader.persistent_workers = False
    return cfg


def refusal(name, data):
    """What a training says that refuses these data; None if it takes all of them.

    Anything but a ``UserError`` of one line, with a fix, fails the test.
    """
    cfg = config(name, data)
    try:
        check_data(cfg, 'train_dataloader')
        check.check_classes(cfg, 'train_dataloader')
        loader = pipeline.build_dataloader(
            Runner.build_dataloader, cfg.train_dataloader, cfg.train_dataloader, seed=0
        )
        items = [loader.dataset[i] for i in range(len(loader.dataset))]
    except UserError as error:
        message = str(error)
        assert '\n' not in message and len(message) < 2000
        assert any(word in message for word in FIX.split('|')), message
        return message
    for item in items:
        assert item['inputs'].ndim == 3 and item['inputs'].numel() and item['inputs'].shape[0] == 3
        sample = item['data_samples']
        if 'gt_instances' in sample:
            assert np.isfinite(np.asarray(sample.gt_instances.bboxes.tensor)).all()
        if 'gt_sem_seg' in sample:
            labels = sample.gt_sem_seg.data.numpy()
            assert set(np.unique(labels)) <= {0, 1, 2, 3, 4, 5, 255}
            assert labels.shape[1:] == item['inputs'].shape[1:]
    return None


class Kept:
    """Files that are as they were when the block ends.

    Args:
        paths: Which files.
    """

    def __init__(self, *paths):
        self.kept = {Path(path): Path(path).read_bytes() for path in paths}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for path, content in self.kept.items():
            path.write_bytes(content)


# ------------------------------------------------------------------ images
def encoded(height, width, channels, deep, suffix):
    """Bytes of an image of noise."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    rng = np.random.default_rng(0)
    if deep:
        pixels = rng.integers(0, 65536, shape).astype(np.uint16)
    else:
        pixels = rng.integers(0, 256, shape).astype(np.uint8)
    return cv2.imencode(suffix, pixels)[1].tobytes()


@st.composite
def damages(draw):
    """What becomes of the bytes of a file: (name, function)."""
    kind = draw(st.sampled_from(['none', 'none', 'cut', 'flip', 'noise', 'empty']))
    part = draw(st.floats(0, 0.98))
    noise = draw(st.binary(min_size=1, max_size=64))

    def damage(content):
        at = int(len(content) * part)
        if kind == 'cut':
            return content[:at]
        if kind == 'flip':
            return content[:at] + noise + content[at + len(noise) :]
        return dict(none=content, noise=noise, empty=b'')[kind]

    damage.kind = kind
    return damage


def whole(content):
    """No damage."""
    return content


whole.kind = 'none'


def image_of(name, data):
    """The first image of a training set."""
    return sorted((data / FOLDERS[name]).rglob('*train*/**/*.jpg'))[0]


@pytest.mark.parametrize('name', FOLDERS)
@fuzz(30)
@example(height=1, width=1, channels=3, deep=False, suffix='.png', damage=whole, told=True)
@example(height=1, width=4000, channels=3, deep=False, suffix='.png', damage=whole, told=True)
@example(height=4000, width=1, channels=1, deep=False, suffix='.png', damage=whole, told=True)
@example(height=40, width=50, channels=4, deep=True, suffix='.png', damage=whole, told=True)
@given(
    height=st.integers(1, 64),
    width=st.integers(1, 64),
    channels=st.sampled_from([1, 3, 4]),
    deep=st.booleans(),
    suffix=st.sampled_from(['.png', '.jpg']),
    damage=damages(),
    told=st.booleans(),
)
def test_images(name, data, height, width, channels, deep, suffix, damage, told):
    """Whole images of any kind and size are used, damaged and unexpected ones are named.

    Grey, alpha and 16 bits are what mmcv makes of them: three channels of a byte.
    """
    if suffix == '.jpg':
        channels, deep = min(channels, 3), False
    path = image_of(name, data)
    annotations, maps = data / ANNOTATIONS, sorted((data / FOLDERS[SEG]).rglob('*train*/*.png'))
    with Kept(path, annotations, maps[0]):
        path.write_bytes(damage(encoded(height, width, channels, deep, suffix)))
        if told:
            content = json.loads(annotations.read_text())
            row = next(r for r in content['images'] if r['file_name'] == path.name or name != DET)
            row.update(width=width, height=height)
            annotations.write_text(json.dumps(content))
            cv2.imwrite(str(maps[0]), np.ones((height, width), np.uint8))
        message = refusal(name, data)
    if damage.kind == 'none' and (told or name == CLS):
        # mmseg cannot read a label map of one pixel
        assert (message is None) == (name != SEG or height * width > 1), message
    if message is not None:
        assert str(path) in message or (name == SEG and str(maps[0]) in message), message
    if damage.kind in ('noise', 'empty'):
        assert message is not None and 'cannot be read' in message


# ------------------------------------------------------------------ annotations
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**9), 10**9),
    st.floats(),
    st.sampled_from(['', 'x', [], {}, [[]], [1, 2], [None]]),
    st.lists(st.integers(-200, 200), min_size=4, max_size=6),
    st.dictionaries(st.sampled_from(['counts', 'size', 'id']), st.integers(0, 5), max_size=2),
)
FIELDS = dict(
    images=['id', 'file_name', 'width', 'height'],
    annotations=['id', 'image_id', 'category_id', 'bbox', 'area', 'segmentation', 'iscrowd'],
    categories=['id', 'name'],
)


@st.composite
def edits(draw):
    """A change of one table of an annotation file, of one of its rows or of all."""
    table = draw(st.sampled_from(sorted(FIELDS)))
    field = draw(st.sampled_from(FIELDS[table]))
    kind = draw(st.sampled_from(['set', 'set', 'set', 'drop', 'twice', 'clear', 'replace']))
    return table, field, kind, draw(st.booleans()), draw(JUNK)


def edit(content, table, field, kind, everywhere, value):
    """Apply such a change."""
    rows = content[table]
    if kind == 'clear':
        rows.clear()
    elif kind == 'replace':
        content[table] = value
    elif kind == 'twice':
        rows.append(dict(rows[0]))
    for row in (rows if everywhere else rows[:1]) if kind in ('set', 'drop') else []:
        row[field] = value
        if kind == 'drop':
            row.pop(field)


@fuzz(150)
@example(change=('annotations', 'iscrowd', 'set', True, 1))
@example(change=('annotations', 'bbox', 'set', True, [900, 900, 10, 10]))
@example(change=('annotations', 'category_id', 'set', True, 77))
@example(change=('annotations', 'image_id', 'set', True, 77))
@example(change=('annotations', 'id', 'clear', True, None))
@example(change=('images', 'id', 'clear', True, None))
@given(change=edits())
def test_annotations(data, change):
    """Odd values anywhere in a COCO file end in a line that names it, or do no harm."""
    path = data / ANNOTATIONS
    with Kept(path):
        content = json.loads(path.read_text())
        edit(content, *change)
        path.write_text(json.dumps(content))
        message = refusal(DET, data)
    assert message is None or str(path) in message or str(path.parents[1]) in message
    table, field, kind, everywhere, value = change
    lost = field in ('bbox', 'image_id', 'category_id') and not isinstance(value, bool)
    if kind == 'clear' or (kind == 'drop' and table == 'annotations' and field in ('bbox', 'area')):
        assert message is not None
    if table == 'annotations' and everywhere and kind == 'set' and lost and value != 1:
        boxes = isinstance(value, list) and len(value) == 4 and field == 'bbox'
        assert message is not None or boxes or value in (2, 3, 4, 5)


@fuzz(40)
@example(text='')
@example(text='[]')
@example(text='null')
@example(text='{"images": [], "annotations": [], "categories": []}')
@given(
    text=st.one_of(
        st.text(max_size=30),
        st.recursive(JUNK, lambda inner: st.lists(inner, max_size=3), max_leaves=5).map(json.dumps),
        st.dictionaries(
            st.sampled_from(['images', 'annotations', 'categories', 'info']), JUNK, max_size=4
        ).map(json.dumps),
    )
)
def test_other_json(data, text):
    """A file of something else is named, whatever it holds."""
    path = data / ANNOTATIONS
    with Kept(path):
        path.write_text(text, encoding='utf-8', errors='replace')
        message = refusal(DET, data)
    assert message is not None and str(path) in message


@fuzz(40)
@given(change=edits(), cut=st.floats(0, 1))
def test_check_data_reports(data, monkeypatch_module, change, cut):
    """check-data finds words for all of it: it raises nothing, and every finding is a line."""
    path = data / ANNOTATIONS
    with Kept(path):
        content = json.loads(path.read_text())
        edit(content, *change)
        text = json.dumps(content)
        path.write_text(text if cut > 0.5 else text[: int(2 * cut * len(text))])
        report = check.check(config(DET, data), 4, 'nowhere')
    lines = report.errors + report.warnings
    assert not any('\n' in line for line in lines)
    assert cut > 0.5 or report.errors


@pytest.fixture(scope='module')
def monkeypatch_module():
    """check-data without its images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, 'draw', lambda *args: '')
        yield patch


@pytest.mark.parametrize('flaw', ['crowds', 'unknown ids'])
def test_large_files_without_objects(data, flaw, monkeypatch):
    """What the fast check leaves out because of its size, the data loader finds."""
    monkeypatch.setattr(check, 'SMALL_FILE', 1e-9)
    path = data / ANNOTATIONS
    with Kept(path):
        content = json.loads(path.read_text())
        for row in content['annotations']:
            row.update(dict(iscrowd=1) if flaw == 'crowds' else dict(category_id=77))
        path.write_text(json.dumps(content))
        message = refusal(DET, data)
    wanted = dict(crowds='no object to learn from')
    assert wanted.get(flaw, 'no image with an object is left') in message


# ------------------------------------------------------------------ label maps
@fuzz(60)
@example(values=[255], kind='plain', damage=whole)
@example(values=[7], kind='plain', damage=whole)
@example(values=[1], kind='size', damage=whole)
@given(
    values=st.lists(st.integers(0, 255), min_size=1, max_size=4),
    kind=st.sampled_from(['plain', 'plain', 'size', 'colour', 'deep']),
    damage=damages(),
)
def test_label_maps(data, values, kind, damage):
    """Six classes from 1 up; 0 and 255 do not count; all else is named before it reaches a loss."""
    path = sorted((data / FOLDERS[SEG]).rglob('*train*/*.png'))[0]
    with Kept(path):
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        labels = np.resize(np.asarray(values, labels.dtype), labels.shape)
        if kind == 'size':
            labels = labels[:-1]
        elif kind == 'colour':
            labels = np.dstack([labels, labels, labels])
        elif kind == 'deep':
            labels = labels.astype(np.uint16) * 257
        path.write_bytes(damage(cv2.imencode('.png', labels)[1].tobytes()))
        message = refusal(SEG, data)
    good = kind == 'plain' and {*values} <= {0, 1, 2, 3, 4, 5, 6, 255}
    if damage.kind == 'none':
        zeros = kind == 'deep' and {*values} == {0}
        assert (message is None) == (good or zeros), message
    assert message is None or str(path) in message


@pytest.mark.parametrize('value, good', [(6, True), (255, True), (7, False), (200, False)])
def test_labels_are_checked_where_they_are_read(data, value, good):
    """Also in maps that the fast check did not look at: the pipeline names them."""
    path = sorted((data / FOLDERS[SEG]).rglob('*train*/*.png'))[0]
    cfg = config(SEG, data)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    pipeline.check_dataset(dataset, True)
    with Kept(path):
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        labels[5:9, 5:9] = value
        cv2.imwrite(str(path), labels)
        if good:
            assert dataset[0]['inputs'].shape[0] == 3
        else:
            with pytest.raises(UserError, match=f'{path.name} holds {value - 1} as read'):
                dataset[0]


def test_labels_of_lists(shapes, tmp_path):
    """A list of images whose labels are none of the classes is refused, image by image."""
    listed = tmp_path / 'train.txt'
    listed.write_text('cross/cross_00000.jpg 9\n')
    folder = sorted((shapes / 'imagenet/train/cross').iterdir())
    listed.write_text(f'cross/{folder[0].name} 9\n')
    init_default_scope('mmpretrain')
    dataset = DATASETS.build(
        dict(
            type='CustomDataset',
            data_prefix=str(shapes / 'imagenet/train'),
            ann_file=str(listed),
            metainfo=dict(classes=('circle', 'cross', 'square', 'star', 'triangle')),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
        )
    )
    pipeline.check_dataset(dataset, True)
    with pytest.raises(UserError, match='its label is 9, but there are 5 classes'):
        dataset[0]
