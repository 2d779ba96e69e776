# Fixed-(5,5,5,5).
_base_ = './gg_table4a_adaptive.py'

model = dict(backbone=dict(gaze_kernels=(5, 5, 5, 5)))
