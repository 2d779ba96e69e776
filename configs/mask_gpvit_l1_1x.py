# Mask R-CNN, GPViT-L1 with adapter, COCO, 1x.
_base_ = [
    '_base_/backbones/gpvit_l1.py',
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    '_base_/schedules/gpvit_1x.py',
    '_base_/runtime/det.py',
]

norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    backbone=dict(_delete_=True, type='GPViTAdapter', **_base_.backbone),
    neck=dict(in_channels=[_base_.channels] * 4, norm_cfg=norm_cfg),
    roi_head=dict(
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=256, norm_cfg=norm_cfg)
    ),
)
