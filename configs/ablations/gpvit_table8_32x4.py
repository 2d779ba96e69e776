# {32, 32, 32, 32} group tokens.
_base_ = '../cls_gpvit_l1_300e.py'

model = dict(backbone=dict(groups=(32, 32, 32, 32)))
