# The same in 100 epochs, for the ablations of GG-Transformer. The paper names no more than their
# number: the 20 epochs of warm-up are those of 300.
_base_ = './adamw_300e.py'

train_cfg = dict(max_epochs=100)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=20, end=100, convert_to_iter_based=True),
]
