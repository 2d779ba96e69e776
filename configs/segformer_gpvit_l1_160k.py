# SegFormer, GPViT-L1, ADE20K, 160k iterations. Four maps, all of stride 8.
_base_ = [
    '_base_/backbones/gpvit_l1.py',
    '_base_/models/segformer.py',
    '_base_/datasets/ade20k_aligned.py',
    '_base_/schedules/gpvit_160k.py',
    '_base_/runtime/seg.py',
]

model = dict(
    backbone=dict(_base_.backbone, type='GPViT', out_indices=(2, 5, 8, 11)),
    decode_head=dict(in_channels=[_base_.channels] * 4),
)
optim_wrapper = dict(
    paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys={'head': dict(lr_mult=10.0)}
    )
)
