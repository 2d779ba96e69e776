# UperNet, GC ViT-XXT, drawn shapes (tools/make_shapes.py).
_base_ = [
    '_base_/backbones/gcvit_xxt.py',
    '_base_/models/upernet.py',
    '_base_/datasets/shapes_ade.py',
    '_base_/schedules/shapes.py',
    '_base_/runtime/seg.py',
]

num_classes = 6
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(query_pools=(3, 2, 0, 0), **_base_.backbone),
    decode_head=dict(in_channels=_base_.channels, channels=128, num_classes=num_classes),
    auxiliary_head=dict(in_channels=_base_.channels[2], channels=64, num_classes=num_classes),
)
default_hooks = dict(checkpoint=dict(interval=100), logger=dict(interval=10))
