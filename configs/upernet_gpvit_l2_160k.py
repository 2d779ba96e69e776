_base_ = './upernet_gpvit_l1_160k.py'

model = dict(
    backbone=dict(arch='L2', drop_path_rate=0.1),
    decode_head=dict(in_channels=[348] * 4),
    auxiliary_head=dict(in_channels=348),
)
