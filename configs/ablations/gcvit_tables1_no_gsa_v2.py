# w/o G-SA-v2: all blocks local; blocks as in T.
_base_ = './gcvit_table2_t.py'

model = dict(backbone=dict(global_query='none'))
