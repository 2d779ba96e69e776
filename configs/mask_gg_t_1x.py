# Mask R-CNN, GG-T, COCO, 1x with multi-scale training.
_base_ = [
    '_base_/backbones/gg_t.py',
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '_base_/datasets/coco_ms.py',
    '_base_/schedules/gg_1x.py',
    '_base_/runtime/det.py',
]

model = dict(
    backbone=dict(_delete_=True, drop_path_rate=0.1, **_base_.backbone),
    neck=dict(in_channels=_base_.channels),
)
