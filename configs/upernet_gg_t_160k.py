# UperNet, GG-T, ADE20K, 160k iterations; sliding-window test, --tta for multi-scale and flips.
_base_ = [
    '_base_/backbones/gg_t.py',
    '_base_/models/upernet.py',
    '_base_/datasets/ade20k.py',
    '_base_/schedules/adamw_160k.py',
    '_base_/runtime/seg.py',
]

model = dict(
    backbone=dict(drop_path_rate=0.3, **_base_.backbone),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)
