# w/o global share-v2: a generator a global block; blocks as in T.
_base_ = './gcvit_table2_t.py'

model = dict(backbone=dict(global_query='own'))
