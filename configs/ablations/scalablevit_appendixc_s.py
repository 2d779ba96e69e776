# Appendix C names repeated augmentation, which the released commands, and ours, leave off.
_base_ = '../cls_scalablevit_s_300e.py'

train_dataloader = dict(sampler=dict(type='RepeatAugSampler'))
