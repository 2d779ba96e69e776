# DINO, GC ViT-L, COCO, 3x: 58.3 box AP in the abstract of the ICML paper, which gives neither
# weights nor schedule. As mmdet has it for Swin-L: weights of ImageNet-21K at 384 (their bias
# tables are resized), drop path 0.2 (as T), steps after 27 and 33 epochs, recomputed blocks.
_base_ = './dino_gcvit_t_1x.py'

model = dict(
    backbone=dict(
        arch='large',
        with_cp=True,
        init_cfg=dict(
            checkpoint='https://huggingface.co/nvidia/GCViT/resolve/main/gcvit_21k_large_384.pth.tar'
        ),
    ),
    neck=dict(in_channels=[384, 768, 1536]),
)
train_cfg = dict(max_epochs=36)
param_scheduler = [
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=36, milestones=[27, 33], gamma=0.1)
]
