_base_ = './mask_gg_t_1x.py'

# Of S, Swin's authors have 3x only.
model = dict(backbone=dict(arch='small', drop_path_rate=0.2))
