# ImageNet-1K as imagenet.py has it, but tested on the centre of a short side of 224 ('crop 1.0').
_base_ = './imagenet.py'

test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = 224
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
