_base_ = './cls_ggdeit_t_300e.py'

model = dict(backbone=dict(arch='small'), head=dict(in_channels=384))
