# ScalableViT-S on ImageNet-1K, 300 epochs.
_base_ = [
    '_base_/models/cls_two_layers.py',
    '_base_/datasets/imagenet.py',
    '_base_/schedules/scalablevit_300e.py',
    '_base_/runtime/cls.py',
]

model = dict(
    backbone=dict(type='ScalableViT', arch='small', out_indices=(3,)), head=dict(in_channels=512)
)
