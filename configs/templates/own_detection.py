# Mask R-CNN with GC ViT-T on your own images in COCO format: copy this file beside itself, change
# what stands above the line, train. docs/own_data.md explains every setting.
_base_ = '../mask_gcvit_t_1x.py'

import os.path as osp

from gcvit_mm.visualization.palette import distinct_colours

data_root = 'data/own/'
classes = ('bolt', 'nut')  # the names in 'categories' of the annotation files
train = dict(ann_file='train.json', data_prefix=dict(img='train/'))
val = dict(ann_file='val.json', data_prefix=dict(img='val/'))
masks = True  # False where the annotations are boxes only
scale = (1333, 800)  # the longer and the shorter side that images are resized into
batch_size = 2  # a GPU; the learning rate follows by itself
max_epochs = 12
warmup = 100  # iterations
# ----------------------------------------------------------------------------------------------
num_classes = len(classes)
palette = distinct_colours(num_classes)
annotations = dict(type='LoadAnnotations', with_bbox=True, with_mask=masks)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    annotations,
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    annotations,
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
dataset = dict(data_root=data_root, metainfo=dict(classes=classes, palette=palette))
train_dataloader = dict(
    batch_size=batch_size,
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True),
    dataset=dict(pipeline=train_pipeline, **train, **dataset),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, **val, **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(
    ann_file=osp.join(data_root, val['ann_file']), metric=['bbox', 'segm'] if masks else 'bbox'
)
test_evaluator = val_evaluator
bbox_head = _base_.model.roi_head.bbox_head  # Cascade R-CNN has a list of them
if isinstance(bbox_head, list):
    bbox_head = [dict(head, num_classes=num_classes) for head in bbox_head]
else:
    bbox_head = dict(num_classes=num_classes)
model = dict(
    roi_head=dict(
        bbox_head=bbox_head,
        mask_head=dict(num_classes=num_classes) if masks else None,
    )
)
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
default_hooks = dict(checkpoint=dict(by_epoch=True, interval=1))
log_processor = dict(by_epoch=True)
steps = [max_epochs * 2 // 3, max_epochs * 11 // 12]
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=warmup),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=max_epochs, milestones=steps, gamma=0.1),
]
auto_scale_lr = dict(enable=True)
