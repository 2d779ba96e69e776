# W&SW-MSA: Swin-T.
_base_ = './gg_table4a_adaptive.py'

model = dict(backbone=dict(gaze='swin'))
