_base_ = './cls_gg_t_300e.py'

model = dict(backbone=dict(arch='small'))
