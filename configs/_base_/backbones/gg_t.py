# GG-T from scratch: no weights were ever released. A classifier trained with this package serves:
# --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
# Drop path of the dense tasks is not published: the leaves have the rates of Swin's own configs.
backbone = dict(type='GGTransformer', arch='tiny')
channels = [96, 192, 384, 768]
