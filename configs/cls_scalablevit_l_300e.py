_base_ = './cls_scalablevit_s_300e.py'

model = dict(backbone=dict(arch='large'), head=dict(in_channels=1024))
