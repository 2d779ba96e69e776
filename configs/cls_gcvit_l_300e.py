_base_ = './cls_gcvit_b_300e.py'

model = dict(backbone=dict(arch='large'), head=dict(in_channels=1536))
