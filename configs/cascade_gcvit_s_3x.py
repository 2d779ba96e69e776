_base_ = './cascade_gcvit_t_3x.py'

# The drop path rate of detection is published for T only: this is the one of classification.
model = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.3,
        init_cfg=dict(
            checkpoint='https://huggingface.co/nvidia/GCViT/resolve/main/gcvit_1k_small.pth.tar'
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
