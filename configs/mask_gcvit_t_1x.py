# Mask R-CNN, GC ViT-T, COCO, 1x. Windows of 16 reproduce the FLOPs of the paper.
_base_ = [
    '_base_/backbones/gcvit_t.py',
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    '_base_/schedules/adamw_1x.py',
    '_base_/runtime/det.py',
]

model = dict(
    backbone=dict(_delete_=True, window_size=16, query_pools=(3, 2, 1, 0), **_base_.backbone),
    neck=dict(in_channels=_base_.channels),
)
