"""A small classifier of images in folders, as a config file."""

import cv2
import numpy as np

MODEL = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['gcvit_mm'], allow_failed_imports=False)
data_preprocessor = dict(num_classes=2, mean=[0.0] * 3, std=[1.0] * 3)
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='GCViT',
        arch=dict(
            embed_dims=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), mlp_ratio=2.0,
            layer_scale=None, window_size=(3, 3, 3, 3), drop_path_rate=0.0,
        ),
        init_cfg=dict(type='Pretrained', checkpoint='not_there.pth'),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead', num_classes=2, in_channels=128, loss=dict(type='CrossEntropyLoss')
    ),
)
"""
DATA = """
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=64),
    dict(type='PackInputs'),
]
dataset = dict(type='CustomDataset', data_root='DATA', pipeline=pipeline)
train_dataloader = dict(
    batch_size=2, num_workers=3, persistent_workers=True, dataset=dataset,
    sampler=dict(type='DefaultSampler', shuffle=True), collate_fn=dict(type='default_collate'),
)
val_dataloader = dict(
    batch_size=3, num_workers=1, dataset=dataset,
    sampler=dict(type='DefaultSampler', shuffle=False), collate_fn=dict(type='default_collate'),
)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
train_cfg = dict(by_epoch=True, max_epochs=10, val_interval=1)
val_cfg = dict()
"""


def write_classifier(path, root='not_there'):
    """Write the config of a classifier that learns from images in folders.

    Args:
        path: Where to write it.
        root: Folder of the images.
    """
    path.write_text(MODEL + DATA.replace('DATA', str(root)))
    return path


def draw_folders(root, images=3, size=64):
    """Draw images of two classes, each in a folder of its own."""
    for name in ('a', 'b'):
        (root / name).mkdir(parents=True)
        for i in range(images):
            image = np.random.default_rng(i).integers(0, 255, (size, size, 3), np.uint8)
            cv2.imwrite(str(root / name / f'{i}.png'), image)
    return root
