# ScalableViT: cosine over all epochs, its first 5 under a warm-up from 1e-6, stepped by epoch; no
# decay of PEG. The paper also names repeated augmentation, which the released commands leave off.
_base_ = './adamw_300e.py'

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=6),  # epoch 5 has the full rate
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=0, end=300),
]
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(_delete_=True, **{'.peg.': dict(decay_mult=0.0)}))
)
