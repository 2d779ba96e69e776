# GC ViT-L fine-tuned at 384x384 from the authors' ImageNet-1K weights (CC BY-NC-SA 4.0: no
# commercial use); those of ImageNet-21K at 224 were not released. The head starts fresh.
_base_ = [
    '_base_/models/cls.py',
    '_base_/datasets/imagenet_384.py',
    '_base_/schedules/gcvit_30e.py',
    '_base_/runtime/cls.py',
]

model = dict(
    backbone=dict(
        type='GCViT',
        arch='large_384',
        query_pools=(3, 2, 0, 0),
        out_indices=(3,),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://huggingface.co/nvidia/GCViT/resolve/main/gcvit_1k_large.pth.tar',
        ),
    ),
    head=dict(in_channels=1536),
)
