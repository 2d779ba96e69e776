_base_ = './cls_gcvit_xt_300e.py'

model = dict(backbone=dict(arch='small'), head=dict(in_channels=768))
train_dataloader = dict(batch_size=32)
auto_scale_lr = dict(base_batch_size=1024)
