# Gaze Only: without the glance of Glance+Gaze (Conv), whose kernels of 3 it keeps.
_base_ = './gg_table4a_fixed3.py'

model = dict(backbone=dict(gaze='only'))
