# Mask R-CNN, GC ViT-XXT, drawn shapes (tools/make_shapes.py): what `make demo` trains.
_base_ = [
    '_base_/backbones/gcvit_xxt.py',
    '_base_/models/mask_shapes.py',
    '_base_/datasets/shapes_coco.py',
    '_base_/schedules/shapes_det.py',
    '_base_/runtime/det.py',
]

model = dict(
    backbone=dict(_delete_=True, query_pools=(3, 2, 0, 0), **_base_.backbone),
    neck=dict(in_channels=_base_.channels),
)
log_processor = dict(by_epoch=False)
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=96),
    logger=dict(interval=10, log_metric_by_epoch=False),
    visualization=dict(score_thr=0.5),
)
# --tta at the size of the images and half as large again, both flipped too.
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1]['transforms'][0] = [
    dict(type='Resize', scale_factor=r, keep_ratio=True) for r in (1.0, 1.5)
]
