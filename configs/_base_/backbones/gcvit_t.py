# GC ViT-T with the authors' ImageNet-1K weights (CC BY-NC-SA 4.0: no commercial use).
# Train from scratch with --cfg-options model.backbone.init_cfg=None
backbone = dict(
    type='GCViT',
    arch='tiny',
    drop_path_rate=0.2,
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://huggingface.co/nvidia/GCViT/resolve/main/gcvit_1k_tiny.pth.tar',
    ),
)
channels = [64, 128, 256, 512]
