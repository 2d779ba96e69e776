# DINO, GC ViT-T, COCO, 1x. Not published; the step between a test run and dino_gcvit_l_3x.
_base_ = ['_base_/backbones/gcvit_t.py', '_base_/models/dino.py']

# Four scales: strides 8, 16, 32 of the backbone, and 64 that the neck adds to them. The map of
# stride 4 would be the fifth; it is not asked for, so that no parameter is without a gradient.
model = dict(
    backbone=dict(
        _delete_=True,
        window_size=16,
        query_pools=(3, 2, 1, 0),
        out_indices=(1, 2, 3),
        **_base_.backbone,
    ),
    neck=dict(in_channels=_base_.channels[1:]),
)
