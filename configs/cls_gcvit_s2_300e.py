_base_ = './cls_gcvit_s_300e.py'

model = dict(backbone=dict(arch='small2'))
