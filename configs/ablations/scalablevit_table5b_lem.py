# LEM alone.
_base_ = '../cls_scalablevit_s_300e.py'

model = dict(backbone=dict(interaction='lem', peg=False))
