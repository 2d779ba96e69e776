# {16, 32, 32, 64} group tokens.
_base_ = '../cls_gpvit_l1_300e.py'

model = dict(backbone=dict(groups=(16, 32, 32, 64)))
