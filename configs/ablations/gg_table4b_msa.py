# MSA: among all tokens in stages 3 and 4, windows as Swin's before them.
_base_ = './gg_table4a_adaptive.py'

model = dict(backbone=dict(gaze=('swin', 'swin', 'msa', 'msa')))
