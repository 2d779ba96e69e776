_base_ = './cascade_gg_t_1x.py'

model = dict(backbone=dict(arch='small'))
