# Window attn + GP Block; Table 7: Window, GP Block.
_base_ = '../cls_gpvit_l1_300e.py'

model = dict(backbone=dict(local_attn='window'))
