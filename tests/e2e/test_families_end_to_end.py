"""ScalableViT, GG-Transformer and GPViT train and evaluate through the tools.

Small backbones learn drawn shapes; the papers' configs run at reduced size on real images where
``../shared/data`` exists, and on drawn shapes where it does not.
"""

import signal
from pathlib import Path

import pytest

from support.forked import run_ranks, start_ranks, tool
from support.processes import moments
from support.running import (
    DET,
    ROOT,
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

PYRAMID = dict(depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), mlp_ratio=2.0, drop_path_rate=0.0)
GPVIT = dict(
    embed_dims=48,
    depth=4,
    num_heads=4,
    group_heads=4,
    groups={1: 16, 3: 8},
    mlp_ratio=2.0,
    stripe=2,
    stem_convs=0,
    drop_path_rate=0.0,
)
# Backbones that learn on a CPU, and the channels of their maps.
SMALL = dict(
    scalablevit=dict(
        type='ScalableViT',
        arch=dict(
            PYRAMID,
            embed_dims=(24, 48, 96, 192),
            c_ratios=1.25,
            sr_ratios=(8, 4, 2, 1),
            window_size=7,
        ),
    ),
    gg=dict(type='GGTransformer', arch=dict(PYRAMID, embed_dims=24)),
    gpvit_det=dict(type='GPViTAdapter', arch=GPVIT, hidden_dims=16),
    gpvit_seg=dict(type='GPViT', arch=GPVIT, out_indices=(0, 1, 2, 3)),
)


def swap_backbone(tmp_path, base, family, task):
    """Write a config that differs from one of ours by its backbone, and return its path."""
    backbone = SMALL.get(family) or SMALL[f'{family}_{task}']
    channels = [48] * 4 if family == 'gpvit' else [24, 48, 96, 192]
    if task == 'det':
        rest = f'neck=dict(in_channels={channels})'
    else:
        rest = (
            f'decode_head=dict(in_channels={channels}), '
            f'auxiliary_head=dict(in_channels={channels[2]})'
        )
    path = tmp_path / f'{family}_{task}.py'
    path.write_text(
        f"_base_ = '{ROOT / base}'\n"
        f'backbone = dict(_delete_=True, **{backbone!r})\n'
        f'model = dict(backbone=backbone, {rest})\n'
        # no bias tables here whose decay could be switched off
        'optim_wrapper = dict(paramwise_cfg=dict(_delete_=True))\n'
    )
    return path


@pytest.mark.parametrize('family', ['scalablevit', 'gg', 'gpvit'])
def test_detects_drawn_shapes(family, shapes, tmp_path):
    """The demo's Mask R-CNN with another backbone: the loss falls, evaluation completes."""
    output = run(
        'train.py',
        swap_backbone(tmp_path, DET, family, 'det'),
        '--work-dir',
        tmp_path / 'work',
        '--data-root',
        shapes / 'coco',
        '--cfg-options',
        *iterations(8),
        *SMALL_RCNN,
        'default_hooks.checkpoint.save_best=None',
        'train_dataloader.batch_size=2',
        'param_scheduler.0.end=2',
        'model.test_cfg.rcnn.score_thr=0.0',
    )
    curve = losses(output)
    assert list(curve) == list(range(1, 9)) and falls(curve)
    assert 'coco/bbox_mAP_50:' in output and 'coco/segm_mAP_50:' in output


def test_two_processes_survive_sigkill(shapes, tmp_path):
    """GPViT with its adapter trains in two processes, is killed, resumes and finishes.

    A parameter without a gradient would stop the run.
    """
    command = [
        'train.py',
        swap_backbone(tmp_path, DET, 'gpvit', 'det'),
        '--launcher',
        'pytorch',
        '--work-dir',
        tmp_path,
        '--data-root',
        shapes / 'coco',
        '--cfg-options',
        *iterations(6),
        *SMALL_RCNN,
        'default_hooks.checkpoint.interval=2',
        'default_hooks.checkpoint.save_best=None',
        'train_dataloader.batch_size=1',
    ]
    command = [str(word) for word in command]
    ranks = start_ranks(tmp_path, tool, *command)
    try:
        for _ in moments(ranks[0], 'checkpoint'):
            if (tmp_path / 'last_checkpoint').exists():
                break
    finally:
        for rank in ranks:
            rank.kill()
    assert {rank.wait() for rank in ranks} == {-signal.SIGKILL}
    saved = Path((tmp_path / 'last_checkpoint').read_text().strip())
    step = int(saved.stem.split('_')[1])
    assert step < 6 and not (tmp_path / 'iter_6.pth').exists()

    status, output = run_ranks(tmp_path, tool, *command[:2], '--resume', *command[2:])
    assert status == 0, output[-4000:]
    assert f'resumed epoch: 0, iter: {step}' in output
    assert min(losses(output)) == step + 1 and max(losses(output)) == 6
    assert 'coco/bbox_mAP_50:' in output
    assert (tmp_path / 'iter_6.pth').exists()


@pytest.mark.parametrize('family', ['scalablevit', 'gg', 'gpvit'])
def test_segments_drawn_shapes(family, device, shapes, tmp_path):
    """The drawn shapes' UperNet with another backbone: the loss falls, evaluation completes."""
    output = run(
        'train.py',
        swap_backbone(tmp_path, SEG, family, 'seg'),
        '--work-dir',
        tmp_path / 'work',
        '--data-root',
        shapes / 'ade/ADEChallengeData2016',
        '--cfg-options',
        *iterations(8),
        'model.data_preprocessor.size=(64,64)',
        'train_dataloader.dataset.pipeline.2.crop_size=(64,64)',
        'optim_wrapper.optimizer.lr=0.001',
    )
    curve = losses(output)
    assert list(curve) == list(range(1, 9)) and falls(curve)
    assert 'mIoU:' in output


SMALL_HEADS = [
    'model.train_cfg.rcnn.sampler.num=16',
    'model.roi_head.bbox_head.fc_out_channels=64',
    'model.roi_head.mask_head.conv_out_channels=32',
]


@pytest.mark.parametrize(
    'config', ['mask_scalablevit_s_3x', 'mask_gg_t_1x', 'mask_gpvit_l1_1x', 'retinanet_gpvit_l1_3x']
)
def test_shipped_detectors_run(config, device, shapes, tmp_path):
    """An epoch over a few images with the config of a paper, and the COCO metric at its end."""
    pipeline = 'train_dataloader.dataset.pipeline'
    small = {
        'mask_scalablevit_s_3x': [f'{pipeline}.2.scale=[(160,96),(160,128)]'],
        'mask_gpvit_l1_1x': [f'{pipeline}.2.scale=(160,96)'],
    }.get(config, SMALL_MULTI_SCALE)
    mask = config.startswith('mask')
    heads = ['roi_head.bbox_head', 'roi_head.mask_head'] if mask else ['bbox_head']
    options = coco_options(shapes, *heads)
    if not mask:
        options = [o for o in options if not any(w in str(o) for w in ('rcnn', 'rpn'))]
    output = run(
        'train.py',
        f'configs/{config}.py',
        '--work-dir',
        tmp_path,
        *options,
        *small,
        *(SMALL_HEADS if mask else ['model.test_cfg.score_thr=0.0']),
        'train_dataloader.dataset.indices=2',
    )
    assert 'coco/bbox_mAP_50:' in output
    assert ('coco/segm_mAP_50:' in output) == mask
    assert (tmp_path / 'epoch_1.pth').exists()


@pytest.mark.parametrize(
    'config',
    [
        'semfpn_scalablevit_s_80k',
        'upernet_scalablevit_s_160k',
        'upernet_gg_t_160k',
        'upernet_gpvit_l1_160k',
        'segformer_gpvit_l1_160k',
    ],
)
def test_shipped_segmentors_run(config, device, shapes, tmp_path):
    """Two steps with the config of a paper, and mIoU as the paper measures it."""
    output = run(
        'train.py',
        f'configs/{config}.py',
        '--work-dir',
        tmp_path,
        *ade_options(shapes),
        *iterations(2),
        *(['model.decode_head.channels=64'] if config.startswith('upernet') else []),
        *(
            ['model.test_cfg.crop_size=(64,64)', 'model.test_cfg.stride=(42,42)']
            if '_gg_' in config
            else []
        ),
        'train_dataloader.batch_size=2',
    )
    assert list(losses(output)) == [1, 2]
    assert 'mIoU:' in output
