_base_ = './mask_gg_t_1x.py'

model = dict(backbone=dict(arch='small'))
