# GC ViT-XXT as a classifier of drawn shapes (tools/make_shapes.py).
_base_ = [
    '_base_/backbones/gcvit_xxt.py',
    '_base_/models/cls.py',
    '_base_/datasets/shapes_imagenet.py',
    '_base_/schedules/shapes.py',
    '_base_/runtime/cls.py',
]

model = dict(
    data_preprocessor=dict(num_classes=5),
    # windows that divide the maps of 64x64 images: four times as fast as the usual ones
    backbone=dict(
        window_size=(8, 8, 4, 2), query_pools=(3, 2, 0, 0), out_indices=(3,), **_base_.backbone
    ),
    head=dict(in_channels=_base_.channels[-1], num_classes=5),
    train_cfg=None,
)
auto_scale_lr = dict(base_batch_size=16)
log_processor = dict(by_epoch=False)
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=100),
    logger=dict(interval=10, log_metric_by_epoch=False),
    visualization=dict(rescale_factor=4),
)
