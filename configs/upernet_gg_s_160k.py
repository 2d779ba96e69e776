_base_ = './upernet_gg_t_160k.py'

model = dict(backbone=dict(arch='small'))
