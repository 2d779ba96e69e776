_base_ = './cls_gcvit_t_300e.py'

model = dict(backbone=dict(arch='base'), head=dict(in_channels=1024))
train_dataloader = dict(batch_size=32)
auto_scale_lr = dict(base_batch_size=1024)
