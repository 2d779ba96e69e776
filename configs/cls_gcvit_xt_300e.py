# GC ViT-XT on ImageNet-1K, 300 epochs (and 20 of cool-down), tested on the centre (crop 0.875).
_base_ = [
    '_base_/models/cls.py',
    '_base_/datasets/imagenet.py',
    '_base_/schedules/gcvit_300e.py',
    '_base_/runtime/cls.py',
]

model = dict(
    backbone=dict(type='GCViT', arch='xtiny', query_pools=(3, 2, 0, 0), out_indices=(3,)),
    head=dict(in_channels=512),
)
