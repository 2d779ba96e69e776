# 12 epochs of the 3x recipe (no 1x recipe of GC ViT is published; steps as mmdet's 1x).
_base_ = './adamw_3x.py'

train_cfg = dict(max_epochs=12)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=2500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
