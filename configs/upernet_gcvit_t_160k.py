# UperNet, GC ViT-T, ADE20K, 160k iterations, windows 7/7/14/7 (the arch's own).
_base_ = [
    '_base_/backbones/gcvit_t.py',
    '_base_/models/upernet.py',
    '_base_/datasets/ade20k.py',
    '_base_/schedules/adamw_160k.py',
    '_base_/runtime/seg.py',
]

model = dict(
    backbone=dict(query_pools=(3, 2, 0, 0), **_base_.backbone),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)
