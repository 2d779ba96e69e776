_base_ = './cls_gcvit_t_300e.py'

model = dict(backbone=dict(arch='xxtiny'))
