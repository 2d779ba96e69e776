_base_ = './retinanet_scalablevit_s_1x.py'

model = dict(backbone=dict(arch='base', drop_path_rate=0.5), neck=dict(in_channels=[192, 384, 768]))
