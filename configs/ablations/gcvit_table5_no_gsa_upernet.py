# w/o G-SA, on ADE20K, from the classifier of the row.
_base_ = '../upernet_gcvit_t_160k.py'

model = dict(
    backbone=dict(
        arch='tiny_no_gsa',
        init_cfg=dict(checkpoint='work_dirs/gcvit_table5_no_gsa/epoch_320.pth'),
    )
)
