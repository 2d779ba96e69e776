_base_ = './upernet_scalablevit_s_160k.py'

model = dict(
    backbone=dict(arch='large', drop_path_rate=0.5),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
