_base_ = './gcvit_table2_t.py'

model = dict(backbone=dict(arch='base'), head=dict(in_channels=1024))
