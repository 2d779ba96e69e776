"""Training, evaluating, resuming and predicting with the shipped configs and tools.

The configs of the papers run at reduced size on real images where ``../shared/data`` exists,
and on drawn shapes where it does not.
"""

import json
import pickle
import re
import shutil

import numpy as np
import pytest
import torch

from support.running import (
    DET,
    SEG,
    SMALL_MULTI_SCALE,
    SMALL_RCNN,
    ade_options,
    coco_options,
    falls,
    iterations,
    losses,
    run,
)

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmcv._ext', reason='the compiled ops of mmcv are not installed')

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


@pytest.fixture(scope='module')
def detector(device, shapes, tmp_path_factory):
    """A detector trained for a few steps: its work dir and what the training printed."""
    work_dir = tmp_path_factory.mktemp('detector')
    output = run(
        'train.py',
        DET,
        '--work-dir',
        work_dir,
        '--data-root',
        shapes / 'coco',
        '--cfg-options',
        *iterations(6),
        *SMALL_RCNN,
        'train_dataloader.batch_size=2',
    )
    return work_dir, output


@pytest.fixture(scope='module')
def segmentor(device, shapes, tmp_path_factory):
    """A segmentor trained for a few steps: its work dir and what the training printed."""
    work_dir = tmp_path_factory.mktemp('segmentor')
    output = run(
        'train.py',
        SEG,
        '--work-dir',
        work_dir,
        '--data-root',
        shapes / 'ade/ADEChallengeData2016',
        '--tensorboard',
        '--cfg-options',
        *iterations(8),
        'model.data_preprocessor.size=(64,64)',
        'train_dataloader.dataset.pipeline.2.crop_size=(64,64)',
        'optim_wrapper.optimizer.lr=0.001',
    )
    return work_dir, output


def test_detector_trains_and_evaluates(detector):
    """The loss falls, both COCO metrics are computed, the best checkpoint is kept."""
    work_dir, output = detector
    curve = losses(output)
    assert list(curve) == [1, 2, 3, 4, 5, 6]
    assert falls(curve)
    assert 'coco/bbox_mAP_50:' in output and 'coco/segm_mAP_50:' in output
    assert 'loading annotations' not in output  # pycocotools' own words
    assert (work_dir / 'iter_6.pth').exists()
    assert list(work_dir.glob('best_coco_bbox_mAP_iter_*.pth'))


def test_segmentor_trains_and_evaluates(segmentor):
    """The loss falls, mIoU is computed, TensorBoard events are written."""
    work_dir, output = segmentor
    curve = losses(output)
    assert falls(curve)
    assert 'mIoU:' in output
    assert list(work_dir.rglob('events.out.tfevents.*'))
    for path in work_dir.glob('*.pth'):  # the best one too, with its score
        assert torch.load(path, weights_only=True)['meta']['iter'] <= 8


def test_detector_tested_from_file(detector, shapes, tmp_path):
    """tools/test.py says what it loaded, repeats the metric, draws and saves predictions."""
    work_dir, trained = detector
    output = run(
        'test.py',
        DET,
        work_dir / 'iter_6.pth',
        '--work-dir',
        tmp_path / 'test',
        '--data-root',
        shapes / 'coco',
        '--show-dir',
        tmp_path / 'drawn',
        '--out',
        tmp_path / 'predictions.pkl',
        '--cfg-options',
        *SMALL_RCNN,
    )
    weights = len(torch.load(work_dir / 'iter_6.pth', weights_only=True)['state_dict'])
    assert f'loaded {weights} of {weights} weights' in output
    metric = 'coco/bbox_mAP_50: '
    assert trained.split(metric)[-1].split()[0] == output.split(metric)[-1].split()[0]
    assert len(list((tmp_path / 'drawn').glob('*.jpg'))) == 4
    predictions = pickle.loads((tmp_path / 'predictions.pkl').read_bytes())
    assert len(predictions) == 4 and 'pred_instances' in predictions[0]


def test_detector_tested_with_augmentation(detector, shapes, tmp_path):
    """tools/test.py --tta: boxes and masks of two scales and flips are merged, and evaluated."""
    work_dir, _ = detector
    output = run(
        'test.py',
        DET,
        work_dir / 'iter_6.pth',
        '--work-dir',
        tmp_path / 'test',
        '--data-root',
        shapes / 'coco',
        '--out',
        tmp_path / 'predictions.pkl',
        '--tta',
        '--cfg-options',
        *SMALL_RCNN,
        'test_dataloader.batch_size=2',
        'test_dataloader.dataset.indices=2',
        'model.test_cfg.rcnn.score_thr=0.0',
    )
    assert 'coco/bbox_mAP_50:' in output and 'coco/segm_mAP_50:' in output
    for sample in pickle.loads((tmp_path / 'predictions.pkl').read_bytes()):
        found = sample['pred_instances']
        assert len(found['masks']) == len(found['bboxes']) > 20  # more than one image has
        assert found['masks'].shape[1:] == sample['ori_shape']


def test_results_for_a_server(detector, shapes, tmp_path):
    """tools/test.py --submit reads no annotations; pycocotools gets the AP of the training."""
    work_dir, trained = detector
    data = shutil.copytree(shapes / 'coco', tmp_path / 'coco')
    annotations = data / 'annotations/instances_val2017.json'
    content = json.loads(annotations.read_text())
    annotations.unlink()
    truth = COCO(str(shapes / 'coco/annotations/instances_val2017.json'))
    del content['annotations']
    (data / 'annotations/image_info.json').write_text(json.dumps(content))
    output = run(
        'test.py',
        DET,
        work_dir / 'iter_6.pth',
        '--work-dir',
        tmp_path / 'test',
        '--data-root',
        data,
        '--submit',
        tmp_path / 'results.json',
        '--cfg-options',
        *SMALL_RCNN,
        'test_dataloader.dataset.ann_file=annotations/image_info.json',
    )
    assert f'results for a test server: {tmp_path}/results.json' in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ['coco', 'results.json', 'test']
    for kind in ('bbox', 'segm'):
        judge = COCOeval(truth, truth.loadRes(str(tmp_path / 'results.json')), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
        metric = float(trained.split(f'coco/{kind}_mAP_50: ')[-1].split()[0])
        assert judge.stats[1] == pytest.approx(metric, abs=6e-4)


def test_segmentor_tested_from_file(segmentor, shapes, tmp_path):
    """tools/test.py with test-time augmentation evaluates, draws and saves."""
    work_dir, _ = segmentor
    output = run(
        'test.py',
        SEG,
        work_dir / 'iter_8.pth',
        '--work-dir',
        tmp_path / 'test',
        '--data-root',
        shapes / 'ade/ADEChallengeData2016',
        '--show-dir',
        tmp_path / 'drawn',
        '--out',
        tmp_path / 'predictions.pkl',
        '--tta',
    )
    assert 'mIoU:' in output
    assert len(list((tmp_path / 'drawn').rglob('*.png'))) == 4
    assert len(pickle.loads((tmp_path / 'predictions.pkl').read_bytes())) == 4


@pytest.mark.parametrize('kind', ['detector', 'segmentor'])
def test_predict_draws(kind, device, request, shapes, tmp_path):
    """tools/predict.py draws every image it is given, small ones larger."""
    import cv2

    work_dir, _ = request.getfixturevalue(kind)
    config, checkpoint = dict(detector=(DET, 'iter_6'), segmentor=(SEG, 'iter_8'))[kind]
    images = sorted((shapes / 'coco/val2017').iterdir())[:2]
    command = ['predict.py', config, work_dir / f'{checkpoint}.pth', *images, '--score-thr', 0]
    output = run(*command, '--out-dir', tmp_path)
    assert 'drew 2 images' in output
    for image in images:
        source, drawn = cv2.imread(str(image)), cv2.imread(str(tmp_path / image.name))
        factor = drawn.shape[0] // source.shape[0]
        assert drawn.shape[:2] == tuple(factor * side for side in source.shape[:2])
        assert factor > 1
        assert (drawn != np.kron(source, np.ones((factor, factor, 1)))).any()


def test_shipped_cascade_runs(device, shapes, tmp_path):
    """cascade_gcvit_t_3x trains an epoch, evaluates with the COCO metric, and is tested."""
    config = 'configs/cascade_gcvit_t_3x.py'
    options = [
        *coco_options(shapes, *[f'roi_head.bbox_head.{i}' for i in range(3)], 'roi_head.mask_head'),
        *SMALL_MULTI_SCALE,
        'model.backbone.init_cfg=None',
        'model.backbone.arch=xxtiny',
        *[f'model.train_cfg.rcnn.{i}.sampler.num=16' for i in range(3)],
        *[f'model.roi_head.bbox_head.{i}.fc_out_channels=64' for i in range(3)],
        'model.roi_head.mask_head.conv_out_channels=32',
    ]
    trained = run('train.py', config, '--work-dir', tmp_path, *options)
    assert 'coco/bbox_mAP_50:' in trained and 'coco/segm_mAP_50:' in trained
    assert re.search(r'Epoch\(train\)\s+\[1\]\[(\d+)/\1\]', trained)
    tested = run('test.py', config, tmp_path / 'epoch_1.pth', '--work-dir', tmp_path, *options)
    assert 'coco/segm_mAP_50:' in tested


def test_shipped_upernet_runs(device, shapes, tmp_path):
    """upernet_gcvit_t_160k trains a few steps on ADE20K's layout and evaluates with mIoU."""
    config = 'configs/upernet_gcvit_t_160k.py'
    options = [
        *ade_options(shapes),
        *iterations(2),
        'model.backbone.init_cfg=None',
        'model.backbone.arch=xxtiny',
        'model.decode_head.channels=64',
    ]
    trained = run('train.py', config, '--work-dir', tmp_path, *options)
    assert list(losses(trained)) == [1, 2] and 'mIoU:' in trained
    tested = run('test.py', config, tmp_path / 'iter_2.pth', '--work-dir', tmp_path, *options)
    assert trained.split('aAcc: ')[-1].split()[0] == tested.split('aAcc: ')[-1].split()[0]
