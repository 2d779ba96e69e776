# GC ViT-T on ImageNet-1K, 300 epochs (and 20 of cool-down), tested without cropping the short side.
_base_ = [
    '_base_/models/cls.py',
    '_base_/datasets/imagenet_full.py',
    '_base_/schedules/gcvit_300e.py',
    '_base_/runtime/cls.py',
]

model = dict(
    backbone=dict(type='GCViT', arch='tiny', query_pools=(3, 2, 0, 0), out_indices=(3,)),
    head=dict(in_channels=512),
)
