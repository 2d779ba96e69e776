# RetinaNet, ScalableViT-S, COCO, 3x.
_base_ = [
    '_base_/backbones/scalablevit_s.py',
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '_base_/datasets/coco_boxes_range.py',
    '_base_/schedules/scalablevit_3x.py',
    '_base_/runtime/det.py',
]

# Map 0 is not used by RetinaNet: it is not asked for, so that no parameter is without a gradient.
model = dict(
    backbone=dict(_delete_=True, out_indices=(1, 2, 3), **_base_.backbone),
    neck=dict(in_channels=_base_.channels[1:], start_level=0),
)
