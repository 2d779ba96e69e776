# Mask R-CNN, GC ViT-XXT, drawn shapes (tools/make_shapes.py): what `make demo` trains in minutes on
# two CPU cores. Half the channels of mmdet's Mask R-CNN behind the backbone are enough for that.
_base_ = [
    '_base_/backbones/gcvit_xxt.py',
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '_base_/datasets/shapes_coco.py',
    '_base_/schedules/shapes.py',
    '_base_/runtime/det.py',
]

num_classes = 5
width = 128
model = dict(
    backbone=dict(_delete_=True, query_pools=(3, 2, 0, 0), **_base_.backbone),
    neck=dict(in_channels=_base_.channels, out_channels=width),
    rpn_head=dict(in_channels=width, feat_channels=width),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width),
        bbox_head=dict(in_channels=width, fc_out_channels=512, num_classes=num_classes),
        mask_roi_extractor=dict(out_channels=width),
        mask_head=dict(in_channels=width, conv_out_channels=width, num_classes=num_classes),
    ),
    train_cfg=dict(rpn_proposal=dict(max_per_img=200), rcnn=dict(sampler=dict(num=32))),
    test_cfg=dict(
        rpn=dict(max_per_img=100), rcnn=dict(max_per_img=20, nms=dict(iou_threshold=0.3))
    ),
)
max_iters = 240
train_cfg = dict(max_iters=max_iters, val_interval=80)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=20, end=max_iters, eta_min=1e-5),
]
optim_wrapper = dict(optimizer=dict(lr=8e-4))
log_processor = dict(by_epoch=False)
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=80),
    logger=dict(interval=10),
    visualization=dict(score_thr=0.5),
)
visualizer = dict(type='gcvit_mm.visualization.detections.ReadableVisualizer')
