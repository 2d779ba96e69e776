# 36 epochs as the ScalableViT paper has them, for RetinaNet and Mask R-CNN; norms and PEG are not
# decayed, as in Twins, whose settings the paper names.
_base_ = './adamw_3x.py'

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=36, milestones=[27, 33], gamma=0.1),
]
optim_wrapper = dict(
    paramwise_cfg=dict(
        _delete_=True, custom_keys={'norm': dict(decay_mult=0.0), '.peg.': dict(decay_mult=0.0)}
    )
)
