"""This project's detectors on the stand-in: bfloat16 trains as float32 does."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import MODELS, init_default_scope

pytest.importorskip('mmdet')

CONFIGS = Path(__file__).parents[2] / 'configs'
XXT = dict(init_cfg=None, arch='xxtiny', drop_path_rate=0.0)
CLASSES = dict(num_classes=5)
# One stage, layer and image size: the code that runs is the same.
SMALL = {
    'mask_gcvit_xxt_shapes': dict(
        backbone=dict(drop_path_rate=0.0), test_cfg=dict(rpn=dict(max_per_img=10))
    ),
    'cascade_gcvit_t_3x': dict(
        backbone=XXT,
        neck=dict(in_channels=[64, 128, 256, 512]),
        train_cfg=dict(
            rpn_proposal=dict(nms_pre=100, max_per_img=50),
            rcnn=[
                dict(
                    assigner=dict(
                        type='MaxIoUAssigner', pos_iou_thr=t, neg_iou_thr=t, min_pos_iou=t
                    ),
                    sampler=dict(type='RandomSampler', num=16, pos_fraction=0.25),
                    mask_size=28,
                    pos_weight=-1,
                )
                for t in (0.5, 0.6, 0.7)
            ],
        ),
        test_cfg=dict(rpn=dict(max_per_img=10)),
    ),
    'retinanet_gpvit_l1_1x': dict(backbone=dict(init_cfg=None, drop_path_rate=0.0)),
    'dino_gcvit_t_1x': dict(
        backbone=XXT,
        neck=dict(in_channels=[128, 256, 512]),
        num_queries=20,
        encoder=dict(num_layers=1),
        decoder=dict(num_layers=1),
        dn_cfg=dict(group_cfg=dict(num_dn_queries=10)),
    ),
}


def narrow(part):
    """Give necks and heads of 256 channels, and their layers of 1024, fewer."""
    for key, value in part.items() if isinstance(part, dict) else ():
        if key.endswith('_channels') and value in (256, 1024):
            part[key] = value // 8
        for child in value if isinstance(value, list) else [value]:
            narrow(child)


def detector(name):
    """A small model of a config, the same at every call."""
    init_default_scope('mmdet')
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    cfg.merge_from_dict(dict(model=SMALL[name]))
    for part in ('neck', 'rpn_head', 'roi_head', 'bbox_head'):
        if cfg.model.type != 'DINO' and part in cfg.model:
            narrow(cfg.model[part])
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.init_weights()
    return model.train()


def images():
    """Two images with boxes and masks."""
    from mmdet.testing import demo_mm_inputs

    return demo_mm_inputs(2, [[3, 96, 128]] * 2, num_items=[3, 2], num_classes=5, with_mask=True)


def train(name, wrap):
    """Losses of two steps, all of them."""
    model = detector(name)
    wrapper = wrap(torch.optim.SGD(model.parameters(), 1e-4))
    losses = []
    for step in range(2):
        torch.manual_seed(step)
        log = model.train_step(images(), wrapper)
        losses.append({key: float(value) for key, value in log.items() if 'loss' in key})
    for key, p in model.named_parameters():
        assert p.isfinite().all(), key
        assert p.grad is None or p.grad.isfinite().all(), key
    return losses


@pytest.mark.parametrize('name', SMALL)
def test_bfloat16_trains_as_float32(ours, monkeypatch, name):
    """Two steps by mmengine's wrapper, which is told that it may do without a GPU."""
    wide = train(name, lambda optimizer: OptimWrapper(optimizer))
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    narrow = train(name, lambda optimizer: AmpOptimWrapper(optimizer=optimizer, dtype='bfloat16'))
    for step, (a, b) in enumerate(zip(wide, narrow)):
        assert a.keys() == b.keys()
        assert all(torch.tensor(list(b.values())).isfinite())
        assert b['loss'] == pytest.approx(a['loss'], rel=0.05), step


@pytest.mark.parametrize('name', ['mask_gcvit_xxt_shapes'])
def test_trains_as_on_mmcvs_operators(both, name):
    """Losses of float32 on the compiled operators, and on ours."""
    theirs, mine = both(lambda: train(name, lambda optimizer: OptimWrapper(optimizer)))
    for a, b in zip(theirs, mine):
        assert b == pytest.approx(a, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize('name', ['mask_gcvit_xxt_shapes', 'dino_gcvit_t_1x'])
def test_predicts(ours, name):
    """Boxes of an image, also under bfloat16 autocast."""
    model = detector(name).eval()
    data = model.data_preprocessor(images(), False)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.no_grad(), torch.autocast('cpu', dtype, enabled=dtype is torch.bfloat16):
            (result, _) = model(**data, mode='predict')
        assert result.pred_instances.bboxes.isfinite().all()
