# w/o global share: a generator a global block, and two blocks fewer.
_base_ = './gcvit_table2_t.py'

model = dict(backbone=dict(arch='tiny_no_share'))
