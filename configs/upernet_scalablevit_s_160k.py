# UperNet, ScalableViT-S, ADE20K, 160k iterations; --tta for multi-scale and flips.
_base_ = [
    '_base_/backbones/scalablevit_s.py',
    '_base_/models/upernet.py',
    '_base_/datasets/ade20k.py',
    '_base_/schedules/scalablevit_160k.py',
    '_base_/runtime/seg.py',
]

model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)
