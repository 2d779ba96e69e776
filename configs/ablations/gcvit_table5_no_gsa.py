# w/o G-SA: all blocks local, and one fewer so that parameters are those of T.
_base_ = './gcvit_table2_t.py'

model = dict(backbone=dict(arch='tiny_no_gsa'))
