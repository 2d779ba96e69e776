# ScalableViT-S from scratch. The authors' ImageNet weights are on Google Drive only; once there:
# --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
# Drop path of the dense tasks is not published: this is the rate of classification.
backbone = dict(type='ScalableViT', arch='small', drop_path_rate=0.2)
channels = [64, 128, 256, 512]
