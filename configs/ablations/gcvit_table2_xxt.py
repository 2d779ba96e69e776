_base_ = './gcvit_table2_t.py'

model = dict(backbone=dict(arch='xxtiny'))
