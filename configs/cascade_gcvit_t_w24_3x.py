# As the authors' released code has it: windows of 24. The paper's FLOPs fit windows of 16.
_base_ = './cascade_gcvit_t_3x.py'

model = dict(backbone=dict(window_size=24))
