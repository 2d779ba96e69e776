# GG-DeiT-T on ImageNet-1K, 300 epochs of DeiT's recipe, classified by the class token.
_base_ = [
    '_base_/models/cls.py',
    '_base_/datasets/imagenet.py',
    '_base_/schedules/ggdeit_300e.py',
    '_base_/runtime/cls.py',
]

model = dict(
    backbone=dict(type='GGDeiT', arch='tiny', out_type='cls_token'),
    neck=None,
    head=dict(in_channels=192),
)
train_dataloader = dict(sampler=dict(type='RepeatAugSampler'))
