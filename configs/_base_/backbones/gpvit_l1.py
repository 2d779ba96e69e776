# GPViT-L1 from scratch. Once the authors' ImageNet weights are at hand:
# --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
# Type and outputs come from the leaf: with adapter for detection, without for segmentation.
backbone = dict(arch='L1', drop_path_rate=0.1)
channels = 216
