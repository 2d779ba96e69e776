# Mask R-CNN, ScalableViT-S, COCO, 3x.
_base_ = [
    '_base_/backbones/scalablevit_s.py',
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '_base_/datasets/coco_range.py',
    '_base_/schedules/scalablevit_3x.py',
    '_base_/runtime/det.py',
]

model = dict(
    backbone=dict(_delete_=True, **_base_.backbone), neck=dict(in_channels=_base_.channels)
)
