# w/o over.: patches side by side in the stem.
_base_ = './gcvit_table2_t.py'

model = dict(backbone=dict(overlap_patches=False))
