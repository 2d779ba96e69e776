# Mask R-CNN, GC ViT-XXT, drawn shapes (tools/make_shapes.py): what `make demo` trains.
_base_ = [
    '_base_/backbones/gcvit_xxt.py',
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '_base_/datasets/shapes_coco.py',
    '_base_/schedules/shapes.py',
    '_base_/runtime/det.py',
]

num_classes = 5
model = dict(
    backbone=dict(_delete_=True, query_pools=(3, 2, 0, 0), **_base_.backbone),
    neck=dict(in_channels=_base_.channels),
    roi_head=dict(bbox_head=dict(num_classes=num_classes), mask_head=dict(num_classes=num_classes)),
    train_cfg=dict(rpn_proposal=dict(max_per_img=200), rcnn=dict(sampler=dict(num=32))),
    test_cfg=dict(rpn=dict(max_per_img=100), rcnn=dict(max_per_img=20)),
)
log_processor = dict(by_epoch=False)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=100), logger=dict(interval=10))
