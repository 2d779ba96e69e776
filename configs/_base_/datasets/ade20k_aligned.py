# ADE20K; test images are resized to sides that are multiples of 32 (GPViT).
_base_ = './ade20k.py'

align = dict(type='ResizeToMultiple', size_divisor=32)
test_pipeline = [*_base_.test_pipeline[:2], align, *_base_.test_pipeline[2:]]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
