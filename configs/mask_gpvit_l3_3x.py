_base_ = './mask_gpvit_l1_3x.py'

model = dict(
    backbone=dict(arch='L3', drop_path_rate=0.2),
    neck=dict(in_channels=[432] * 4),
)
