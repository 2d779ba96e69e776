_base_ = './cls_gpvit_l3_300e.py'

model = dict(backbone=dict(arch='L4'), head=dict(in_channels=624))
