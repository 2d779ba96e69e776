# Semantic FPN, ScalableViT-S, ADE20K, 80k iterations, 4 GPUs x 4.
_base_ = [
    '_base_/backbones/scalablevit_s.py',
    '_base_/models/semfpn.py',
    '_base_/datasets/ade20k.py',
    '_base_/schedules/scalablevit_80k.py',
    '_base_/runtime/seg.py',
]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
train_dataloader = dict(batch_size=4)
default_hooks = dict(checkpoint=dict(interval=8000))
