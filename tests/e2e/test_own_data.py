"""The templates train on data of one's own, as docs/own_data.md says."""

import json
import re
import shutil
from pathlib import Path

import pytest
from mmengine.config import Config

from support.running import DET, ROOT, SMALL_RCNN, losses, run

TEMPLATES = ROOT / 'configs/templates'


def own_config(template: str, folder: Path, **settings) -> Path:
    """A copy of a template as a user makes it: some of the settings above the line changed."""
    text = (TEMPLATES / template).read_text()
    above, line, below = re.split(r'^(# -{50,}\n)', text, flags=re.M)
    for name, value in settings.items():
        above, count = re.subn(rf'^{name} = .*$', f'{name} = {value!r}', above, flags=re.M)
        assert count == 1, f'{template} has no setting {name}'
    above = above.replace("'../", f"'{ROOT}/configs/")
    path = folder / template
    path.write_text(above + line + below)
    return path


SMALL_BACKBONE = ['model.backbone.init_cfg=None', 'model.backbone.arch=xxtiny']


@pytest.fixture
def own_coco(shapes, tmp_path) -> Path:
    """Detection data in the layout of docs/own_data.md, with two of the classes of the shapes."""
    root = tmp_path / 'own'
    for split, name in (('train', 'train2017'), ('val', 'val2017')):
        shutil.copytree(shapes / 'coco' / name, root / split)
        content = json.loads((shapes / f'coco/annotations/instances_{name}.json').read_text())
        kept = {c['id'] for c in content['categories'] if c['name'] in ('circle', 'star')}
        content['categories'] = [c for c in content['categories'] if c['id'] in kept]
        content['annotations'] = [a for a in content['annotations'] if a['category_id'] in kept]
        (root / f'{split}.json').write_text(json.dumps(content))
    return root


@pytest.mark.parametrize('masks', [True, False])
def test_own_detection_data(masks, device, own_coco, tmp_path):
    """The template trains on data of one's own after a few settings, with masks and without."""
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv._ext', reason='the compiled ops of mmcv are not installed')
    config = own_config(
        'own_detection.py',
        tmp_path,
        data_root=f'{own_coco}/',
        classes=('circle', 'star'),
        masks=masks,
        scale=(160, 96),
        max_epochs=1,
        warmup=2,
    )
    checked = run('train.py', config, '--check', '--cfg-options', *SMALL_BACKBONE)
    assert checked.splitlines()[-1].startswith('ready: ')
    output = run(
        'train.py',
        config,
        '--work-dir',
        tmp_path / 'run',
        '--cfg-options',
        *SMALL_BACKBONE,
        *SMALL_RCNN,
        'train_dataloader.dataset.indices=6',
        'model.train_cfg.rcnn.sampler.num=16',
        'model.roi_head.bbox_head.fc_out_channels=64',
    )
    assert 'coco/bbox_mAP:' in output
    assert ('coco/segm_mAP:' in output) == masks and ('loss_mask' in output) == masks
    assert (tmp_path / 'run/epoch_1.pth').exists()


def test_own_detection_with_another_base(tmp_path):
    """With a cascade as its base the template sets the classes of all heads."""
    pytest.importorskip('mmdet')
    config = own_config('own_detection.py', tmp_path, _base_='../cascade_gcvit_t_3x.py')
    model = Config.fromfile(config).model
    assert [head.num_classes for head in model.roi_head.bbox_head] == [2, 2, 2]
    assert model.roi_head.mask_head.num_classes == 2
    assert {head.type for head in model.roi_head.bbox_head} == {'ConvFCBBoxHead'}


def test_own_detection_with_a_base_that_counts_iterations(tmp_path):
    """The template counts epochs whatever its base counts."""
    pytest.importorskip('mmdet')
    cfg = Config.fromfile(own_config('own_detection.py', tmp_path, _base_='../' + Path(DET).name))
    assert cfg.train_cfg == dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)
    assert cfg.train_dataloader.sampler == dict(type='DefaultSampler', shuffle=True)
    assert cfg.default_hooks.checkpoint.by_epoch and cfg.default_hooks.checkpoint.interval == 1
    assert cfg.log_processor.by_epoch


def test_own_segmentation_data(device, shapes, tmp_path):
    """The template trains on images and label maps of one's own."""
    pytest.importorskip('mmseg')
    ade = shapes / 'ade/ADEChallengeData2016'
    for split, name in (('train', 'training'), ('val', 'validation')):
        shutil.copytree(ade / 'images' / name, tmp_path / 'own/images' / split)
        shutil.copytree(ade / 'annotations' / name, tmp_path / 'own/masks' / split)
    config = own_config(
        'own_segmentation.py',
        tmp_path,
        data_root=f'{tmp_path}/own/',
        classes=('background', 'circle', 'square', 'triangle', 'star', 'cross'),
        reduce_zero_label=True,
        crop_size=(64, 64),
        max_iters=20,
        warmup=2,
    )
    checked = run('train.py', config, '--check', '--cfg-options', *SMALL_BACKBONE)
    assert checked.splitlines()[-1].startswith('ready: ')
    output = run(
        'train.py',
        config,
        '--work-dir',
        tmp_path / 'run',
        '--cfg-options',
        *SMALL_BACKBONE,
        'train_cfg.max_iters=4',
        'train_cfg.val_interval=4',
        'default_hooks.checkpoint.interval=4',
        'default_hooks.logger.interval=1',
        'model.decode_head.channels=64',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'val_dataloader.num_workers=0',
        'val_dataloader.persistent_workers=False',
    )
    assert list(losses(output)) == [1, 2, 3, 4]
    for name in ('background', 'circle', 'cross'):
        assert re.search(rf'(?m)^{name} +\d', output)
    assert (tmp_path / 'run/iter_4.pth').exists()
