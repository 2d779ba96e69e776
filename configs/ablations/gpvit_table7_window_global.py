# Window, Global attn.
_base_ = '../cls_gpvit_l1_300e.py'

model = dict(backbone=dict(local_attn='window', global_attn='attention'))
