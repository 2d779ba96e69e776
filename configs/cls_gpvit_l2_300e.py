_base_ = './cls_gpvit_l1_300e.py'

model = dict(backbone=dict(arch='L2'), neck=dict(embed_dims=348), head=dict(in_channels=348))
