# GPViT: AdamW 2e-3 for 2048 images a step (16 GPUs x 128), cosine over all epochs, its first 15
# under a warm-up. Clipping at 1 is the released config; the paper has 5 and says that 1 works too.
_base_ = './adamw_300e.py'

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=15, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=2e-5, begin=0, end=300, convert_to_iter_based=True),
]
optim_wrapper = dict(
    optimizer=dict(lr=2e-3),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(
        custom_keys=dict(
            _delete_=True, pos_embed=dict(decay_mult=0.0), group_token=dict(decay_mult=0.0)
        )
    ),
)
auto_scale_lr = dict(base_batch_size=2048)
