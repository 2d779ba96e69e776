# 12 epochs, AdamW 2e-4 for 32 images a step (16 GPUs x 2). The authors train in float16:
# --amp float16. All BN is synchronised when there are several GPUs.
_base_ = './adamw_1x.py'

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
optim_wrapper = dict(
    optimizer=dict(lr=2e-4),
    paramwise_cfg=dict(
        _delete_=True,
        custom_keys={
            'norm': dict(decay_mult=0.0),
            'bias': dict(decay_mult=0.0),
            '.pos_embed': dict(decay_mult=0.0),
            '.group_token': dict(decay_mult=0.0),
            'level_embed': dict(decay_mult=0.0),
        },
    ),
)
sync_bn = 'torch'
auto_scale_lr = dict(enable=False, base_batch_size=32)
