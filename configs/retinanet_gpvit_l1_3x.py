# RetinaNet, GPViT-L1 with adapter, COCO, 3x with multi-scale training.
_base_ = [
    '_base_/backbones/gpvit_l1.py',
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '_base_/datasets/coco_boxes_ms_crop.py',
    '_base_/schedules/gpvit_3x.py',
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
