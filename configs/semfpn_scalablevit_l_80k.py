_base_ = './semfpn_scalablevit_s_80k.py'

model = dict(
    backbone=dict(arch='large', drop_path_rate=0.5), neck=dict(in_channels=[128, 256, 512, 1024])
)
