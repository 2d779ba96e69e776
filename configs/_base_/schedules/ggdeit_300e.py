# DeiT's recipe (arXiv 2012.12877), which GG-DeiT follows: 5 epochs of warm-up, no
# clipping. Repeated augmentation stands in the leaf.
_base_ = './adamw_300e.py'

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=6),  # epoch 5 has the full rate
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=0, end=300),
]
optim_wrapper = dict(
    clip_grad=None,
    paramwise_cfg=dict(
        custom_keys=dict(
            _delete_=True, cls_token=dict(decay_mult=0.0), pos_embed=dict(decay_mult=0.0)
        )
    ),
)
