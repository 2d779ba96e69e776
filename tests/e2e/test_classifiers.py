"""Classifiers train, evaluate, predict, and start detectors and segmentors, through the tools."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from gcvit_mm import cli
from support.running import SMALL_RCNN, losses, run

pytest.importorskip('mmpretrain')

SHAPES = 'configs/cls_gcvit_xxt_shapes.py'


CLASSES = ('circle', 'cross', 'square', 'star', 'triangle')


NO_WORKERS = [
    f'{loader}_dataloader.{key}'
    for loader in ('train', 'val', 'test')
    for key in ('num_workers=0', 'persistent_workers=False')
]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Drawn shapes as class folders, enough to learn from, and a few scenes."""
    from make_shapes import make_shapes

    out = tmp_path_factory.mktemp('classes') / 'shapes'
    make_shapes(out, dict(train=2, val=1, size=96, seed=0, cls_train=200, cls_val=40))
    return out


@pytest.fixture(scope='module')
def classifier(device, data, tmp_path_factory):
    """The classifier of drawn shapes, trained for 40 steps: its work dir, what was printed."""
    work_dir = tmp_path_factory.mktemp('classifier')
    options = ['--work-dir', work_dir, '--data-root', data / 'imagenet', '--cfg-options']
    steps = ['train_cfg.max_iters=40', 'train_cfg.val_interval=40', 'randomness.seed=0']
    steps += ['default_hooks.checkpoint.interval=40', 'default_hooks.logger.interval=1']
    return work_dir, run('train.py', SHAPES, *options, *steps, *NO_WORKERS)


def accuracy(output: str) -> float:
    """The last top-1 accuracy that was printed, in percent."""
    return float(output.split('accuracy/top1: ')[-1].split()[0])


def test_classifier_learns(classifier):
    """The loss falls, and most shapes of the validation are told apart (chance is 20%)."""
    work_dir, output = classifier
    curve = losses(output)
    assert len(curve) == 40 and np.mean([curve[i] for i in range(31, 41)]) < curve[1]
    assert accuracy(output) > 50
    assert (work_dir / 'best_accuracy_top1_iter_40.pth').exists()


def test_bfloat16_on_a_cpu(classifier, data, tmp_path, monkeypatch):
    """``--amp`` trains, tests near what float32 does, and predicts."""
    monkeypatch.setattr(cli.devices, 'cpu_has_bfloat16', lambda: True)
    work_dir, trained = classifier
    where = ['--data-root', data / 'imagenet', '--work-dir', tmp_path, '--amp', '--cfg-options']
    output = run('test.py', SHAPES, work_dir / 'iter_40.pth', *where, *NO_WORKERS)
    assert accuracy(output) == pytest.approx(accuracy(trained), abs=2.5)
    steps = ['train_cfg.max_iters=1', 'train_cfg.val_interval=9', 'default_hooks.logger.interval=1']
    narrow = losses(run('train.py', SHAPES, *where, *steps, 'randomness.seed=0', *NO_WORKERS))
    wide = losses(trained)[1]
    assert narrow[1] != wide and narrow[1] == pytest.approx(wide, rel=0.05)
    image = next((data / 'imagenet/val').glob('*/*'))
    words = [SHAPES, work_dir / 'iter_40.pth', image, '--out-dir', tmp_path / 'drawn', '--amp']
    assert 'drew 1 images' in run('predict.py', *words)


def test_classifier_tested_from_file(classifier, data, tmp_path):
    """tools/test.py repeats the accuracy and draws every image, in its own colours."""
    work_dir, trained = classifier
    output = run(
        'test.py',
        SHAPES,
        work_dir / 'iter_40.pth',
        '--work-dir',
        tmp_path / 'test',
        '--data-root',
        data / 'imagenet',
        '--show-dir',
        tmp_path / 'drawn',
        '--out',
        tmp_path / 'predictions.pkl',
        '--cfg-options',
        *NO_WORKERS,
    )
    assert re.search(r'loaded (\d+) of \1 weights', output)
    assert accuracy(output) == accuracy(trained)
    assert (tmp_path / 'predictions.pkl').exists()
    drawn = sorted((tmp_path / 'drawn').glob('*.png'))
    assert len(drawn) == 40
    name = drawn[0].name.partition('.')[0]
    (source,) = (data / 'imagenet/val').rglob(f'{name}.jpg')
    got, want = cv2.imread(str(drawn[0])), cv2.imread(str(source))
    want = cv2.resize(want, got.shape[1::-1])
    half = got.shape[0] // 2  # below the text
    error = np.abs(got[half:].astype(int) - want[half:]).mean()
    swapped = np.abs(got[half:].astype(int) - want[half:, :, ::-1]).mean()
    assert error < 5 < swapped


def test_classifier_predicts(classifier, data, tmp_path):
    """tools/predict.py names the class as training did, and draws the image."""
    work_dir, _ = classifier
    images = sorted((data / 'imagenet/val').rglob('*.jpg'))
    output = run(
        'predict.py',
        SHAPES,
        work_dir / 'iter_40.pth',
        *images,
        '--out-dir',
        tmp_path,
        '--cfg-options',
        "test_dataloader.dataset.metainfo.classes=('a','b','c','d','e')",
    )
    told = dict(re.findall(r'^(\S+\.jpg): (\w+) [01]\.\d\d$', output, flags=re.M))
    assert set(told) == {str(path) for path in images}
    right = np.mean([Path(path).parent.name == name for path, name in told.items()])
    assert right > 0.5  # the names of the checkpoint, not those of the config
    for path in images:
        drawn = cv2.imread(str(tmp_path / path.name))
        want = cv2.resize(cv2.imread(str(path)), (224, 224))
        assert drawn.shape == want.shape
        assert np.abs(drawn[112:].astype(int) - want[112:]).mean() < 5
        assert (drawn[:20] != want[:20]).any()


@pytest.mark.parametrize('kind', ['detector', 'segmentor'])
def test_classifier_starts(kind, classifier, data, tmp_path):
    """It is the init_cfg of a detector and a segmentor: all of its backbone is taken."""
    if kind == 'detector':
        pytest.importorskip('mmcv._ext', reason='the compiled ops of mmcv are not installed')
    name, root, options = dict(
        detector=('mask_gcvit_xxt_shapes', 'coco', SMALL_RCNN),
        segmentor=('upernet_gcvit_xxt_shapes', 'ade/ADEChallengeData2016', NO_WORKERS),
    )[kind]
    checkpoint = classifier[0] / 'iter_40.pth'
    stored = torch.load(checkpoint, weights_only=False)['state_dict']
    count = sum(key.startswith('backbone.') for key in stored)
    output = run(
        'train.py',
        f'configs/{name}.py',
        '--work-dir',
        tmp_path,
        '--data-root',
        data / root,
        '--cfg-options',
        *options,
        'train_cfg.max_iters=1',
        'train_cfg.val_interval=10',
        'default_hooks.logger.interval=1',
        'train_dataloader.batch_size=2',
        'model.backbone.init_cfg.type=Pretrained',
        f'model.backbone.init_cfg.checkpoint={checkpoint}',
    )
    line = next(x for x in output.splitlines() if 'weights of GCViT' in x and 'loaded' in x)
    assert f'loaded {count} of ' in line
    assert 'start fresh: norm0.weight, norm0.bias, norm1.weight, norm1.bias and 2 more' in line
    assert '2 of heads and unused stages left out' in line
    assert len(losses(output)) == 1


def small(shapes) -> list:
    """Options that make a recipe of ImageNet two epochs of five drawn shapes at 64x64."""
    loaders = [f'{loader}_dataloader.dataset' for loader in ('train', 'val', 'test')]
    return [
        '--data-root',
        shapes / 'imagenet',
        '--cfg-options',
        *NO_WORKERS,
        *[f'{loader}.metainfo.classes={CLASSES}'.replace(' ', '') for loader in loaders],
        *[f'{loader}.pipeline.1.scale=64' for loader in loaders],
        *[f'{loader}.pipeline.2.crop_size=64' for loader in loaders[1:]],
        'train_dataloader.batch_size=2',
        'model.data_preprocessor.num_classes=5',
        'model.head.num_classes=5',
        'train_cfg.max_epochs=2',
        'default_hooks.logger.interval=1',
    ]


def test_averaged_weights(device, shapes, tmp_path):
    """GC ViT's recipe evaluates and keeps averaged weights; tools/test.py finds the same."""
    config = 'configs/cls_gcvit_xxt_300e.py'
    options = [
        *small(shapes),
        'param_scheduler.0.end=1',
        'custom_hooks.0.momentum=0.5',
    ]
    trained = run('train.py', config, '--work-dir', tmp_path, *options)
    assert len(re.findall(r'Epoch\(train\).*?\bloss: [\d.]+', trained)) == 6
    file = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)
    name = 'backbone.stages.0.blocks.0.mlp.fc1.weight'
    averaged, last = file['state_dict'][name], file['ema_state_dict'][f'module.{name}']
    assert not torch.equal(averaged, last)
    # mmengine puts the averaged weights first: they lag behind, closer to the start
    assert averaged.std() < last.std()
    tested = run('test.py', config, tmp_path / 'epoch_2.pth', '--work-dir', tmp_path, *options)
    assert accuracy(tested) == accuracy(trained)


@pytest.mark.parametrize('name', ['scalablevit_s_300e', 'gg_t_300e', 'ggdeit_t_300e'])
def test_recipe_runs(name, device, shapes, tmp_path):
    """The recipes train and evaluate; --auto-scale-lr scales 1e-3 for 1024 images a step."""
    output = run(
        'train.py',
        f'configs/cls_{name}.py',
        '--auto-scale-lr',
        '--work-dir',
        tmp_path,
        *small(shapes),
        'train_cfg.max_epochs=1',
    )
    # the warm-up begins at a thousandth of 1e-3 * 2 / 1024
    assert re.search(r'\[1\]\[1/3\].* lr: 1\.9531e-09', output)
    found = re.findall(r'Epoch\(train\).*?\bloss: ([\d.]+)', output)
    assert len(found) == 3 and all(0.5 < float(loss) < 5 for loss in found)
    assert 'accuracy/top1:' in output and 'accuracy/top5:' in output
