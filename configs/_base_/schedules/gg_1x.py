# The 1x recipe with the warm-up of Swin's own 1x configs; the GG-Transformer paper gives none.
_base_ = './adamw_1x.py'

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
