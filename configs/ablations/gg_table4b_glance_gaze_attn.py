# Glance+Gaze (Attn): every second block in local windows.
_base_ = './gg_table4a_adaptive.py'

model = dict(backbone=dict(gaze='attn'))
