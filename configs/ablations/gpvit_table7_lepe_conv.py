# LePE, Conv.
_base_ = '../cls_gpvit_l1_300e.py'

model = dict(backbone=dict(global_attn='conv'))
