# SSA (r_c = 1) in all blocks.
_base_ = '../cls_scalablevit_s_300e.py'

model = dict(backbone=dict(attn_kinds=('ssa', 'ssa'), c_ratios=1))
