# RetinaNet, GPViT-L1 with adapter, COCO, 1x.
_base_ = [
    '_base_/backbones/gpvit_l1.py',
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    '_base_/schedules/gpvit_1x.py',
    '_base_/runtime/det.py',
]

backbone = dict(_base_.backbone, type='GPViTAdapter', out_strides=(8, 16, 32))
model = dict(
    backbone=dict(_delete_=True, **backbone),
    neck=dict(
        in_channels=[_base_.channels] * 3,
        start_level=0,
        add_extra_convs='on_output',
        norm_cfg=dict(type='SyncBN', requires_grad=True),
    ),
)
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
