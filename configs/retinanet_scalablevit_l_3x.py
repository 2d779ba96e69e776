_base_ = './retinanet_scalablevit_s_3x.py'

model = dict(
    backbone=dict(arch='large', drop_path_rate=0.5), neck=dict(in_channels=[256, 512, 1024])
)
