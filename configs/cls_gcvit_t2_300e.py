_base_ = './cls_gcvit_xt_300e.py'

model = dict(backbone=dict(arch='tiny2'))
