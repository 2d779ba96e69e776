_base_ = './segformer_gpvit_l1_160k.py'

model = dict(
    backbone=dict(arch='L3', drop_path_rate=0.2),
    decode_head=dict(in_channels=[432] * 4),
)
