# GPViT-L3 on ImageNet-1K, 300 epochs, pooled by the mean.
_base_ = './cls_gpvit_l1_300e.py'

model = dict(
    backbone=dict(arch='L3'),
    neck=dict(_delete_=True, type='GlobalAveragePooling'),
    head=dict(in_channels=432),
)
