_base_ = './gcvit_table2_xt.py'

model = dict(backbone=dict(arch='small'), head=dict(in_channels=768))
