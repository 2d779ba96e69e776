# Fewer iterations at a higher rate, for detectors of drawn shapes.
_base_ = './shapes.py'

max_iters = 192
train_cfg = dict(max_iters=max_iters, val_interval=96)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=20, end=max_iters, eta_min=1e-5),
]
optim_wrapper = dict(optimizer=dict(lr=8e-4))
