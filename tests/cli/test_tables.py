"""The table that training and tests end with: the figures of the metrics, class by class."""

import importlib.util
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.registry import METRICS, init_default_scope

from gcvit_mm.cli import tables
from gcvit_mm.cli.terminal import RunReport
from support.running import CLS, DET, FOLDERS, SEG, one_line_error

NAMES = ('circle', 'square', 'triangle', 'star', 'cross')
SIZE = 160


@pytest.fixture
def coco(tmp_path):
    """Four images of boxes; categories that are not in the order of their ids, one never drawn."""
    draw = np.random.default_rng(0)
    images = [dict(id=i, width=SIZE, height=SIZE, file_name=f'{i}.jpg') for i in range(4)]
    rows = []
    for i in range(24):
        x, y, w, h = map(int, (*draw.integers(0, 80, 2), *draw.integers(10, 80, 2)))
        outline = [x, y, x + w, y, x + w, y + h, x, y + h]
        place = dict(bbox=[x, y, w, h], area=w * h, segmentation=[outline])
        rows.append(
            dict(id=i + 1, image_id=i % 4, category_id=9 - i % 4, iscrowd=int(i == 7), **place)
        )
    categories = [dict(id=9 - i, name=name) for i, name in enumerate(NAMES)]
    path = tmp_path / 'truth.json'
    path.write_text(json.dumps(dict(images=images, annotations=rows, categories=categories)))

    def found(image):
        """What a detector says of an image: more than 100 boxes, moved, some of another class."""
        boxes, labels = [], []
        for row in (r for r in rows if r['image_id'] == image):
            for _ in range(20):
                x, y, w, h = np.clip(np.array(row['bbox']) + draw.normal(0, 3, 4), 1, SIZE)
                boxes.append([x, y, min(x + w, SIZE), min(y + h, SIZE)])
                labels.append((9 - row['category_id'] + (draw.random() < 0.2)) % 5)
        masks = torch.zeros(len(boxes), SIZE, SIZE, dtype=torch.bool)
        for mask, (x, y, right, bottom) in zip(masks, boxes):
            mask[int(y) : int(bottom), int(x) : int(right)] = True
        instances = dict(
            bboxes=torch.tensor(boxes).float(),
            labels=torch.tensor(labels),
            scores=torch.tensor(draw.random(len(boxes))).float(),
            masks=masks,
        )
        return dict(img_id=image, ori_shape=(SIZE, SIZE), pred_instances=instances)

    return path, [found(image) for image in range(4)]


def evaluated(path, samples, fast):
    """What mmdet returns, and what was kept of it."""
    init_default_scope('mmdet')
    metric = METRICS.build(
        dict(type='CocoMetric', ann_file=str(path), metric=['bbox', 'segm'], backend_args=None)
    )
    metric.dataset_meta = dict(classes=NAMES)
    evaluation = tables.Evaluation([metric], fast)
    metric.process({}, samples)
    metrics = metric.evaluate(len(samples))
    return metrics, evaluation


@pytest.fixture
def mmdet():
    """Only where it is."""
    pytest.importorskip('mmdet')


def test_detection(mmdet, coco, capsys):
    """The row of all is what mmdet returns; a class without objects has a dash."""
    metrics, evaluation = evaluated(*coco, fast=False)
    assert 'Average Precision' not in capsys.readouterr().out
    rows = [line.split() for line in evaluation.table(metrics).splitlines()]
    assert rows[0] == 'class box AP AP50 AP75 APs APm APl mask AP AP50 AP75 APs APm APl'.split()
    assert [row[0] for row in rows[1:]] == ['cross', 'star', 'triangle', 'square', 'circle', 'all']
    assert rows[1][1:] == ['-'] * 12
    names = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
    wanted = [metrics[f'coco/{kind}_{name}'] * 100 for kind in ('bbox', 'segm') for name in names]
    shown = [float(cell.replace('-', '-100')) for cell in rows[-1][1:]]
    assert shown == pytest.approx(wanted, abs=0.1001) and 1 < wanted[0] < 99
    assert evaluation.table({}) == ''


def test_fast_evaluation_is_the_same(mmdet, coco):
    """Figures of all and of each class, beyond 100 boxes an image too."""
    pytest.importorskip('faster_coco_eval', reason='pip install faster-coco-eval')
    slow, kept = evaluated(*coco, fast=False)
    fast, others = evaluated(*coco, fast=True)
    assert slow == fast
    for a, b in zip(kept.kept, others.kept):
        assert a.classes == b.classes
        for (name, one), (other, two) in zip(a.figures, b.figures):
            assert name == other
            np.testing.assert_allclose(one, two, atol=1e-6)


def test_segmentation():
    """IoU and accuracy by class, and of all, as mmseg returns them."""
    pytest.importorskip('mmseg')
    init_default_scope('mmseg')
    metric = METRICS.build(dict(type='IoUMetric', iou_metrics=['mIoU']))
    metric.dataset_meta = dict(classes=('[red]road[/x]', 'grass\x1b[2J', 'sky'))
    evaluation = tables.Evaluation([metric])
    truth = torch.tensor([[[0, 0, 1, 1]]])
    said = torch.tensor([[[0, 1, 1, 1]]])
    sample = dict(pred_sem_seg=dict(data=said), gt_sem_seg=dict(data=truth))
    metric.process({}, [sample])
    metrics = metric.evaluate(1)
    rows = [line.split() for line in evaluation.table(metrics).splitlines()]
    assert rows == [
        ['class', 'IoU', 'Acc', 'aAcc'],
        ['[red]road[/x]', '50.00', '50.00'],
        ['grass\\x1b[2J', '66.67', '100.00'],
        ['sky', '-', '-'],
        ['all', '58.33', '75.00', '75.00'],
    ]
    assert [metrics[key] for key in ('mIoU', 'mAcc', 'aAcc')] == [58.33, 75.0, 75.0]


def test_other_metrics():
    """They are shown as they are called; what is no number is not."""
    table = tables.Evaluation([object()]).table(
        {'accuracy/top1': 93.25, 'accuracy/top5': 99, 'x': []}
    )
    assert [line.split() for line in table.splitlines()] == [
        ['metric', 'value'],
        ['accuracy/top1', '93.25'],
        ['accuracy/top5', '99'],
    ]
    assert tables.Evaluation(()).table(None) == ''


def test_table_is_that_of_the_best_checkpoint():
    """Not of the last evaluation, unless none is the best."""
    said, hub = [], MessageHub.get_instance('tables')
    runner = SimpleNamespace(
        message_hub=hub,
        logger=SimpleNamespace(info=said.append),
        cfg=SimpleNamespace(filename='my config.py'),
        train_loop=None,
        epoch=0,
    )
    report = RunReport()
    for epoch, value, best in ((1, 50.0, 'epoch_1.pth'), (2, 60.0, 'epoch_2.pth'), (3, 55.0, None)):
        runner.epoch = epoch
        if best:
            hub.update_info('best_ckpt', best)
        report.after_val_epoch(runner, {'accuracy/top1': value})
    report.after_train(runner)
    assert said[0].startswith('evaluation at epoch 2:\n') and said[0].endswith(' 60')
    assert said[1].split() == ['best', 'epoch_2.pth']
    assert "predict.py 'my config.py' epoch_2.pth IMAGES" in said[2]


@pytest.mark.parametrize('option', ['--fast-eval', '--tensorboard', '--wandb', '--mlflow'])
def test_package_that_is_missing(option, mmdet, shapes, tmp_path, monkeypatch):
    """It is named, with the command that installs it."""
    find = importlib.util.find_spec
    package = option[2:].replace('fast-eval', 'faster-coco-eval')
    gone = package.replace('-', '_')
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name, *more: None if name == gone else find(name, *more)
    )
    words = [DET, '--work-dir', tmp_path / 'work', '--data-root', shapes / FOLDERS[DET], option]
    line = one_line_error('train.py', *words, '--check')
    assert line == f'error: {option} needs {package}, which is not installed: pip install {package}'


@pytest.mark.parametrize('config', [SEG, CLS])
def test_fast_evaluation_is_of_boxes(config, shapes, tmp_path):
    """Nothing else has AP."""
    pytest.importorskip('mmseg' if config == SEG else 'mmpretrain')
    words = [config, '--work-dir', tmp_path / 'work', '--data-root', shapes / FOLDERS[config]]
    assert '--fast-eval is for the AP of detectors' in one_line_error(
        'train.py', *words, '--check', '--fast-eval'
    )
