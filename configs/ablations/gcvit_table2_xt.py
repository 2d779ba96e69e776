# GC ViT-XT, Table 2 of v1: the recipe of v1, 32 GPUs x 32.
_base_ = [
    '../_base_/models/cls.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/gcvit_v1_300e.py',
    '../_base_/runtime/cls.py',
]

model = dict(
    backbone=dict(type='GCViT', arch='xtiny', query_pools=(3, 2, 0, 0), out_indices=(3,)),
    head=dict(in_channels=512),
)
train_dataloader = dict(batch_size=32)
