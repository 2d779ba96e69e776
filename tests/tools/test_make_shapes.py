"""Tests of tools/make_shapes.py."""

import json

import cv2
import make_shapes as shapes
import numpy as np
import pytest
from PIL import Image, ImageDraw

from gcvit_mm import UserError
from gcvit_mm.cli import run_tool

FEW = ['--train=6', '--val=3', '--cls-train=10', '--cls-val=5', '--seed=3']
TINY = ['--train=1', '--val=1', '--cls-train=1', '--cls-val=1']
ZOOM = 8


def contents(folder):
    """Return every file of a folder by its relative path."""
    files = (path for path in folder.rglob('*') if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def coco(root, split):
    return json.loads((root / f'coco/annotations/instances_{split}2017.json').read_text())


def ade_files(root, kind, split):
    return sorted((root / 'ade/ADEChallengeData2016' / kind / split).iterdir())


def cover(annotation, height, width):
    """Return the share of every pixel that the polygons of an annotation cover."""
    canvas = Image.new('L', (width * ZOOM, height * ZOOM))
    for polygon in annotation['segmentation']:
        ImageDraw.Draw(canvas).polygon([value * ZOOM for value in polygon], fill=1)
    return np.asarray(canvas, float).reshape(height, ZOOM, width, ZOOM).mean(axis=(1, 3))


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp('made') / 'set'
    shapes.main([str(out), *FEW])
    return out


@pytest.fixture(scope='module')
def annotated(made):
    """Every image of the set with its annotations and its label map."""
    found = []
    for split, ade_split in (('train', 'training'), ('val', 'validation')):
        content = coco(made, split)
        labels = ade_files(made, 'annotations', ade_split)
        for image, path in zip(content['images'], labels):
            items = [item for item in content['annotations'] if item['image_id'] == image['id']]
            found.append((image, items, np.asarray(Image.open(path))))
    return found


@pytest.mark.parametrize(('split', 'ade_split'), [('train', 'training'), ('val', 'validation')])
def test_layout(made, split, ade_split):
    content = coco(made, split)
    names = [(item['id'], item['name']) for item in content['categories']]
    assert names == list(enumerate(shapes.CLASSES, 1))
    images = [made / 'coco' / f'{split}2017' / item['file_name'] for item in content['images']]
    assert images == sorted((made / 'coco' / f'{split}2017').iterdir())
    ade_images = ade_files(made, 'images', ade_split)
    ade_labels = ade_files(made, 'annotations', ade_split)
    assert [path.stem for path in ade_images] == [path.stem for path in ade_labels]
    assert [p.read_bytes() for p in images] == [p.read_bytes() for p in ade_images]
    singles = list((made / 'imagenet' / split).glob('*/*.jpg'))
    assert {path.parent.name for path in singles} == set(shapes.CLASSES)
    assert {Image.open(path).size for path in singles} == {(64, 64)}
    counts = {'train': (6, 10), 'val': (3, 5)}
    assert (len(images), len(singles)) == counts[split]


def test_annotations_agree_with_each_other(annotated):
    assert len({labels.shape for _, _, labels in annotated}) > 3  # sizes vary
    for image, items, labels in annotated:
        assert labels.shape == (image['height'], image['width'])
        assert all(144 <= side <= 176 for side in labels.shape)
        assert 2 <= len(items) <= 5
        expected = np.ones_like(labels)
        for item in items:
            share = cover(item, *labels.shape)
            expected[share > 0.5] = item['category_id'] + 1
            assert share.sum() == pytest.approx(item['area'], rel=0.06)
            x, y, width, height = item['bbox']
            rows, columns = np.nonzero(share > 0.05)
            extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert np.abs(np.subtract(extent, [x, y, x + width, y + height])).max() <= 1.5
        assert (labels != expected).mean() < 0.01
        assert set(np.unique(labels)) == {1} | {item['category_id'] + 1 for item in items}


def test_hidden_shapes_have_no_holes():
    hidden = 0
    for index in range(40):
        _, placed, seen = shapes.draw_scene('train', index, 96, seed=1)
        for number, shape in enumerate(placed, 1):
            mask = (seen == number).astype(np.uint8)
            whole = cv2.fillPoly(np.zeros_like(mask), shapes.enlarged(shape.points), 1)
            hidden += mask.sum() < 0.95 * whole.sum()
            assert mask.sum() >= shapes.MIN_VISIBLE * whole.sum()
            tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)[1]
            assert (tree[0, :, 3] < 0).all()
    assert hidden


def test_first_images_depend_on_the_seed_alone(made, tmp_path):
    shapes.main([str(tmp_path / 'fewer'), *TINY, '--seed=3'])
    shapes.main([str(tmp_path / 'other'), *TINY, '--seed=4'])
    whole, other = contents(made), contents(tmp_path / 'other')
    for name, data in contents(tmp_path / 'fewer').items():
        if not name.endswith('.json'):
            assert data == whole[name]
            assert data != other[name]


def test_same_set_is_left_alone_and_another_needs_force(tmp_path, monkeypatch, capsys):
    out = tmp_path / 'set'
    shapes.main([str(out), *TINY])
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shapes, 'draw_scene', None)
        shapes.main([str(out), *TINY])
    assert 'nothing to do' in capsys.readouterr().out
    with pytest.raises(UserError, match='--force'):
        shapes.main([str(out), *TINY, '--val=2'])
    assert contents(tmp_path) == before
    shapes.main([str(out), *TINY, '--val=2', '--force'])
    assert [path.name for path in tmp_path.iterdir()] == ['set']
    assert len(coco(out, 'val')['images']) == 2


@pytest.mark.parametrize('marker', ['', '{"mine": true}', f'"{shapes.GENERATOR}"'])
def test_foreign_folder_is_left_alone(tmp_path, marker, capsys):
    (tmp_path / 'holiday.jpg').write_bytes(b'precious')
    (tmp_path / 'shapes.json').write_text(marker)
    before = contents(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run_tool(lambda: shapes.main([str(tmp_path), '--force']))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1
    assert contents(tmp_path) == before


def test_interrupted_run_leaves_nothing_half_done(tmp_path, monkeypatch):
    shapes.main([str(tmp_path / 'set'), *TINY])
    before = contents(tmp_path)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, 'draw_single', stop)
    with pytest.raises(KeyboardInterrupt):
        shapes.main([str(tmp_path / 'set'), *TINY, '--val=2', '--force'])
    assert contents(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize('option', ['--train=-1', '--size=63', '--seed=-1'])
def test_bad_numbers(tmp_path, option):
    with pytest.raises(UserError, match='or more'):
        shapes.main([str(tmp_path / 'set'), option])
    assert not list(tmp_path.iterdir())
