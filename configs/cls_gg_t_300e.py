# GG-T on ImageNet-1K, 300 epochs.
_base_ = [
    '_base_/models/cls.py',
    '_base_/datasets/imagenet.py',
    '_base_/schedules/adamw_300e.py',
    '_base_/runtime/cls.py',
]

model = dict(
    backbone=dict(type='GGTransformer', arch='tiny', out_indices=(3,)), head=dict(in_channels=768)
)
