_base_ = './mask_scalablevit_s_1x.py'

model = dict(
    backbone=dict(arch='large', drop_path_rate=0.5), neck=dict(in_channels=[128, 256, 512, 1024])
)
