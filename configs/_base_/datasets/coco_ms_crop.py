# COCO 2017 instances, multi-scale training as coco_ms.py, then a crop of at most 1024 x 1024 (the
# 3x setting of GPViT).
_base_ = './coco_ms.py'

crop = dict(
    type='RandomCrop',
    crop_type='absolute_range',
    crop_size=(1024, 1024),
    allow_negative_crop=True,
)
train_pipeline = [*_base_.train_pipeline[:-1], crop, _base_.train_pipeline[-1]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
