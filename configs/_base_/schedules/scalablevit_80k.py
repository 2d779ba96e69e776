# 80k iterations of Semantic FPN, 16 images a step (4 GPUs x 4). No warm-up, and everything is
# decayed, as in Twins, whose settings the paper names.
_base_ = './scalablevit_160k.py'

train_cfg = dict(max_iters=80000, val_interval=8000)
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, by_epoch=False, begin=0, end=80000)]
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=1e-4), paramwise_cfg=dict(_delete_=True))
