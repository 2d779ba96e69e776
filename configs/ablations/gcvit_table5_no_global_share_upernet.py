# w/o global share, on ADE20K, from the classifier of the row.
_base_ = '../upernet_gcvit_t_160k.py'

model = dict(
    backbone=dict(
        arch='tiny_no_share',
        init_cfg=dict(checkpoint='work_dirs/gcvit_table5_no_global_share/epoch_320.pth'),
    )
)
