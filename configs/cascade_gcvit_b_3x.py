_base_ = './cascade_gcvit_t_3x.py'

# The drop path rate of detection is published for T only: this is the one of classification.
model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.5,
        init_cfg=dict(
            checkpoint='https://huggingface.co/nvidia/GCViT/resolve/main/gcvit_1k_base.pth.tar'
        ),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
