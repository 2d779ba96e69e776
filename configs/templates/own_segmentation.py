# UperNet with GC ViT-T on your own images and label maps: copy this file beside itself, change
# what stands above the line, train. docs/own_data.md explains every setting.
_base_ = '../upernet_gcvit_t_160k.py'

from gcvit_mm.visualization.palette import distinct_colours

data_root = 'data/own/'
classes = ('road', 'grass')  # in the order of the numbers in the label maps
train = dict(img_path='images/train', seg_map_path='masks/train')
val = dict(img_path='images/val', seg_map_path='masks/val')
suffixes = dict(img_suffix='.jpg', seg_map_suffix='.png')
reduce_zero_label = False  # True: 0 in the label maps is ignored, the classes begin at 1
crop_size = (512, 512)
batch_size = 2  # a GPU; the learning rate follows by itself
max_iters = 20000
warmup = 500  # iterations
# ----------------------------------------------------------------------------------------------
num_classes = len(classes)
palette = distinct_colours(num_classes)
short, long = min(crop_size), 4 * min(crop_size)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(long, short), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(long, short), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
dataset = dict(
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=dict(classes=classes, palette=palette),
    reduce_zero_label=reduce_zero_label,
    **suffixes,
)
train_dataloader = dict(
    batch_size=batch_size, dataset=dict(data_prefix=train, pipeline=train_pipeline, **dataset)
)
val_dataloader = dict(dataset=dict(data_prefix=val, pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
model = dict(
    data_preprocessor=dict(size=crop_size),
    decode_head=dict(num_classes=num_classes),
    auxiliary_head=dict(num_classes=num_classes),
)
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 10)
default_hooks = dict(checkpoint=dict(interval=max_iters // 10))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=warmup),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=warmup, end=max_iters),
]
auto_scale_lr = dict(enable=True)
