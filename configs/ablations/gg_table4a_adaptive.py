# Adaptive-(9,5,3,3): the final design, 100 epochs.
_base_ = [
    '../_base_/models/cls.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/adamw_100e.py',
    '../_base_/runtime/cls.py',
]

model = dict(
    backbone=dict(type='GGTransformer', arch='tiny', out_indices=(3,)), head=dict(in_channels=768)
)
