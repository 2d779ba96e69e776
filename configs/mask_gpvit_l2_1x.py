_base_ = './mask_gpvit_l1_1x.py'

model = dict(
    backbone=dict(arch='L2', drop_path_rate=0.1),
    neck=dict(in_channels=[348] * 4),
)
