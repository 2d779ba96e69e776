# w/o pos.: no relative position bias.
_base_ = './gcvit_table2_t.py'

model = dict(backbone=dict(rel_pos_bias=False))
