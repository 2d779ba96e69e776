# ImageNet-1K at 224x224 with Swin's augmentations, which all families here use: RandAugment
# (2 operations, level 9, std 0.5), erasing 0.25; test on the centre of a short side of 256.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

data_root = 'data/imagenet'
data_preprocessor = None  # it stands in the model, where tools/predict.py finds it too
train_dataloader = dict(batch_size=128, persistent_workers=True)
val_dataloader = dict(persistent_workers=True)
test_dataloader = dict(persistent_workers=True)
