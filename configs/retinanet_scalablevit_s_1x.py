# RetinaNet, ScalableViT-S, COCO, 1x.
_base_ = [
    '_base_/backbones/scalablevit_s.py',
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    '_base_/schedules/scalablevit_1x.py',
    '_base_/runtime/det.py',
]

# Map 0 is not used by RetinaNet: it is not asked for, so that no parameter is without a gradient.
model = dict(
    backbone=dict(_delete_=True, out_indices=(1, 2, 3), **_base_.backbone),
    neck=dict(in_channels=_base_.channels[1:], start_level=0),
)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
