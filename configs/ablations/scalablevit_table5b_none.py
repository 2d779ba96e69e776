# Neither PEG nor LEM nor LIM.
_base_ = '../cls_scalablevit_s_300e.py'

model = dict(backbone=dict(interaction='none', peg=False))
