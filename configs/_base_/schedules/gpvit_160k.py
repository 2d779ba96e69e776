# 160k iterations, AdamW 1.2e-4 for 32 images a step (16 GPUs x 2), as the authors' configs have it
# (the paper says 6e-5). Biases are decayed, norms and embeddings are not.
_base_ = './adamw_160k.py'

optim_wrapper = dict(
    optimizer=dict(lr=1.2e-4),
    paramwise_cfg=dict(
        _delete_=True,
        custom_keys={
            'norm': dict(decay_mult=0.0),
            '.pos_embed': dict(decay_mult=0.0),
            '.group_token': dict(decay_mult=0.0),
        },
    ),
)
auto_scale_lr = dict(enable=False, base_batch_size=32)
