_base_ = './mask_scalablevit_s_3x.py'

model = dict(
    backbone=dict(arch='base', drop_path_rate=0.5), neck=dict(in_channels=[96, 192, 384, 768])
)
