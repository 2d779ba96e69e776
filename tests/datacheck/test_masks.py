"""Masks that pycocotools would crash on, files that nobody could read, workers that wait."""

import json
import os
import time

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope

from gcvit_mm import UserError
from gcvit_mm.datacheck import check
from gcvit_mm.datacheck.coco import FAR, mask_flaw, read_runs
from gcvit_mm.datacheck.pipeline import PATIENCE, CheckedPipeline, build_dataloader
from gcvit_mm.messages import explain
from gcvit_mm.processes import end_workers
from support.running import DET, FOLDERS, ROOT

pytest.importorskip('mmdet')
pycocotools = pytest.importorskip('pycocotools.mask')

SQUARE = [1, 1, 5, 1, 5, 5, 1, 5]


def encoded(mask):
    """A mask as COCO writes it, compressed."""
    return dict(pycocotools.encode(np.asfortranarray(mask.astype(np.uint8))))


@pytest.mark.parametrize('density', [0, 0.01, 0.5, 1])
def test_runs_are_those_of_pycocotools(density):
    """Compressed masks of many sizes; pycocotools makes the same mask of the runs."""
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (1, 400), (300, 1), (37, 41), (200, 300)):
        mask = rng.random((height, width)) < density
        runs = read_runs(encoded(mask)['counts'])
        assert sum(runs) == height * width
        again = pycocotools.frPyObjects(dict(size=[height, width], counts=runs), height, width)
        assert (pycocotools.decode(again) == mask).all()


MASK = encoded(np.eye(8, 9))
GOOD = [
    [SQUARE],
    [SQUARE, [-3.5, 0, 2, 2.5, 90, 90]],
    [[FAR, -FAR, 0, 0, 5, 5]],
    dict(size=[8, 9], counts=[72]),
    dict(size=(8, 9), counts=[0, 72]),
    MASK,
    dict(MASK, counts=MASK['counts'].decode()),
]
BAD = [
    ([[3e8, 0, 1, 1, 2, 2]], 'pixels away'),
    ([SQUARE, [0, 0, 1, -FAR - 1, 2, 2]], 'pixels away'),
    ([[1, 1, 5, float('nan'), 5, 5]], 'no list of polygons'),
    ([[1, 1, 5, float('inf'), 5, 5]], 'no list of polygons'),
    ([[1, 1, float('-inf'), float('inf'), 5, 5]], 'no list of polygons'),
    ([[1, 1, 5, 10**400, 5, 5]], 'no list of polygons'),
    ([[1e308, 1e308, 1e308, 1e308, 1e308, 1e308]], 'pixels away'),
    ([[1, 1, 5, 5]], 'no list of polygons'),
    ([], 'no list of polygons'),
    (SQUARE, 'no list of polygons'),
    ('mask', 'no list of polygons'),
    (3, 'no list of polygons'),
    (dict(size=[9, 8], counts=[72]), 'not of the size'),
    (dict(size=[2**31, 2**31], counts=[2**62]), 'not of the size'),
    (dict(counts=[72]), 'not of the size'),
    (dict(size=[8, 9]), 'is damaged'),
    (dict(size=[8, 9], counts=[71]), 'is damaged'),
    (dict(size=[8, 9], counts=[74, -2]), 'is damaged'),
    (dict(size=[8, 9], counts=[36.0, 36]), 'is damaged'),
    (dict(size=[8, 9], counts=[True, 71]), 'is damaged'),
    (dict(size=[8, 9], counts='garbage'), 'is damaged'),
    (dict(size=[8, 9], counts='\u20ac\u20ac'), 'is damaged'),
    (dict(size=[8, 9], counts='o' * 1000), 'is damaged'),
    (dict(size=[8, 9], counts=''), 'is damaged'),
    (dict(size=[8, 9], counts=None), 'is damaged'),
]


@pytest.mark.parametrize('mask', GOOD, ids=range(len(GOOD)))
def test_good_masks(mask):
    """Polygons beyond the border, and both kinds of runs."""
    assert mask_flaw(mask, 9, 8) == ''


@pytest.mark.parametrize(('mask', 'told'), BAD, ids=range(len(BAD)))
def test_bad_masks(mask, told):
    """Each is named; none reaches pycocotools."""
    assert told in mask_flaw(mask, 9, 8)


@pytest.mark.parametrize('crowd', [0, 1])
@pytest.mark.parametrize('mask', [[[3e8, 0, 1, 1, 2, 2]], dict(size=[8, 9], counts=[72])])
def test_where_it_is_said(mask, crowd, shapes, tmp_path):
    """check-data says it of the file, and training of the image, where the file was too large."""
    root = shapes / FOLDERS[DET]
    cfg = Config.fromfile(ROOT / DET)
    node = cfg.train_dataloader.dataset
    ann_file = root / node.ann_file
    content = json.loads(ann_file.read_text())
    content['annotations'][0].update(segmentation=mask, iscrowd=crowd)
    spoilt = tmp_path / 'spoilt.json'
    spoilt.write_text(json.dumps(content))
    node.update(data_root=str(root), ann_file=str(spoilt))
    init_default_scope('mmdet')
    report = reports(cfg)
    kind = 'pixels away' if isinstance(mask, list) else 'not of the size'
    assert [error for error in report.errors if kind in error and str(spoilt) in error]
    loader = cfg.train_dataloader
    loader.update(num_workers=0, persistent_workers=False, batch_size=1)
    from mmengine.runner import Runner

    loader = build_dataloader(Runner.build_dataloader, loader, loader)
    with pytest.raises(UserError, match=f'(?s)jpg.*{kind}|png.*{kind}'):
        for _ in loader:
            pass


def reports(cfg):
    """What check-data finds in the training set."""
    report = check.Report()
    check.check_dataset(cfg, 'train_dataloader', cfg.train_dataloader.dataset, 2, report)
    return report


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no pipes here')
def test_a_pipe_is_no_image(tmp_path):
    """Reading it would never end."""
    os.mkfifo(tmp_path / 'a.jpg')
    pipeline = CheckedPipeline(Compose([dict(type='LoadImageFromFile')]))
    with pytest.raises(UserError, match='a.jpg is no file'):
        pipeline(dict(img_path=str(tmp_path / 'a.jpg')))
    with pytest.raises(UserError, match='b.jpg cannot be read'):
        pipeline(dict(img_path=str(tmp_path / 'b.jpg')))


class Waiting(torch.utils.data.Dataset):
    """Waits for one of its files longer than anybody has patience."""

    def __init__(self):
        self.pipeline = Compose([])

    def __len__(self):
        return 8

    def __getitem__(self, index):
        self.pipeline(dict(img_path=f'/data/{index}.jpg'))
        if index == 5:
            time.sleep(3)
        return index


def test_workers_that_wait():
    """The file that a worker hangs at is named; the config's own patience counts."""

    def build(cfg, **options):
        return torch.utils.data.DataLoader(Waiting(), **cfg)

    cfg = dict(batch_size=1, num_workers=2)
    assert build_dataloader(build, {}, dict(cfg)).timeout == PATIENCE
    assert build_dataloader(build, {}, dict(cfg, num_workers=0)).timeout == 0
    loader = build_dataloader(build, {}, dict(cfg, timeout=2))
    with pytest.raises(RuntimeError) as error:
        list(loader)
    end_workers()  # as the tools do
    line, status = explain(error.value)
    assert status == 2 and 'timed out after 2 seconds' in line
    assert '/data/5.jpg' in line and 'train_dataloader.timeout' in line
