# WSA in all blocks.
_base_ = '../cls_scalablevit_s_300e.py'

model = dict(backbone=dict(attn_kinds=('wsa', 'wsa')))
