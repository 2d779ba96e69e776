# 160k iterations; ScalableViT has no bias tables to except from decay.
_base_ = './adamw_160k.py'

optim_wrapper = dict(paramwise_cfg=dict(_delete_=True, custom_keys={'norm': dict(decay_mult=0.0)}))
