"""DINO on GC ViT trains and evaluates at reduced size."""

import re

import pytest
import torch

from support.running import run

pytest.importorskip('mmdet')

SHAPE_CLASSES = "('circle','square','triangle','star','cross')"


# One layer and few queries: the code that runs is the same.
SMALL = [
    'model.backbone.init_cfg=None',
    'model.backbone.arch=xxtiny',
    'model.neck.in_channels=[128,256,512]',
    'model.num_queries=20',
    'model.bbox_head.num_classes=5',
    'model.encoder.num_layers=1',
    'model.decoder.num_layers=1',
    'model.dn_cfg.group_cfg.num_dn_queries=10',
    'model.test_cfg.max_per_img=10',
    'train_cfg.max_epochs=1',
    'train_dataloader.dataset.indices=8',
    'train_dataloader.dataset.pipeline.3.transforms.0.0.scales=[(96,160),(128,160)]',
    'train_dataloader.dataset.pipeline.3.transforms.1.0.scales=[(96,160)]',
    'train_dataloader.dataset.pipeline.3.transforms.1.2.scales=[(96,160)]',
    'val_dataloader.dataset.pipeline.1.scale=(160,96)',
    'test_dataloader.dataset.pipeline.1.scale=(160,96)',
    'default_hooks.logger.interval=1',
]


for _loader in ('train', 'val', 'test'):
    SMALL += [
        f'{_loader}_dataloader.num_workers=0',
        f'{_loader}_dataloader.persistent_workers=False',
        f'{_loader}_dataloader.dataset.metainfo.classes={SHAPE_CLASSES}',
    ]


@pytest.mark.parametrize('name', ['dino_gcvit_t_1x', 'dino_gcvit_l_3x'])
def test_trains_and_evaluates(name, device, shapes, tmp_path):
    """An epoch of eight images: finite losses, parameters that move, the COCO metric twice."""
    pytest.importorskip('mmcv._ext', reason='the compiled ops of mmcv are not installed')
    options = ['--work-dir', tmp_path, '--data-root', shapes / 'coco', '--cfg-options', *SMALL]
    every_step = ['default_hooks.checkpoint.interval=1', 'default_hooks.checkpoint.by_epoch=False']
    config = f'configs/{name}.py'
    trained = run('train.py', config, *options, *every_step)
    rows = re.findall(r'Epoch\(train\).*?\bgrad_norm: (\S+)\s+loss: (\S+)', trained)
    assert len(rows) == 4
    assert all(torch.tensor([float(x) for x in row]).isfinite().all() for row in rows)
    assert all(float(norm) > 0 for norm, _ in rows)
    assert 'coco/bbox_mAP:' in trained

    first, last = (torch.load(tmp_path / f'iter_{i}.pth', weights_only=False) for i in (2, 4))
    before, after = first['state_dict'], last['state_dict']
    for part in ('backbone.stages', 'neck', 'encoder', 'decoder', 'bbox_head', 'level_embed'):
        keys = [k for k in before if k.startswith(part) and before[k].is_floating_point()]
        assert keys and any((before[k] != after[k]).any() for k in keys), part

    tested = run('test.py', config, tmp_path / 'iter_4.pth', *options)
    assert f'loaded {len(after)} of {len(after)} weights' in tested
    metric = 'coco/bbox_mAP: '
    assert metric in tested
    assert tested.split(metric)[-1].split()[0] == trained.split(metric)[-1].split()[0]
