# GC ViT as v1 of its paper trains it, which its accuracies belong to: 1e-3, cosine over 300 epochs
# (the first 20 under a warm-up), then 20 of cool-down; no averaged weights. v1 prints 128 images a
# step, and as their factors 32 GPUs and 32 images: here 1024, for which 1e-3 is the rate of Swin,
# which v1 says it follows. The least rate and clipping are those of the released configs.
_base_ = './adamw_300e.py'

train_cfg = dict(max_epochs=320)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=5e-6, begin=0, end=300, convert_to_iter_based=True),
]
