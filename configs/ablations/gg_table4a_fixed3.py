# Fixed-(3,3,3,3); also Glance+Gaze (Conv) of Table 4b.
_base_ = './gg_table4a_adaptive.py'

model = dict(backbone=dict(gaze_kernels=(3, 3, 3, 3)))
