# GPViT-L1 on ImageNet-1K, 300 epochs, pooled by a group token.
_base_ = [
    '_base_/models/cls.py',
    '_base_/datasets/imagenet.py',
    '_base_/schedules/gpvit_300e.py',
    '_base_/runtime/cls.py',
]

model = dict(
    backbone=dict(type='GPViT', arch='L1'),
    neck=dict(_delete_=True, type='GroupNeck', embed_dims=216),
    head=dict(in_channels=216, init_cfg=dict(type='Normal', layer='Linear', std=0.01)),
)
