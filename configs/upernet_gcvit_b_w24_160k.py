# Windows of 24, with which the FLOPs are those of the paper.
_base_ = './upernet_gcvit_b_160k.py'

model = dict(backbone=dict(window_size=24, query_pools=(3, 2, 1, 0)))
