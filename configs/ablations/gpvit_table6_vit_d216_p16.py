# ViT-D216-P16: a plain transformer, pooled by the mean.
_base_ = '../cls_gpvit_l1_300e.py'

model = dict(
    backbone=dict(arch='D216', patch_size=16),
    neck=dict(_delete_=True, type='GlobalAveragePooling'),
)
