# w/o global share, on COCO, from the classifier of the row.
_base_ = '../mask_gcvit_t_3x.py'

model = dict(
    backbone=dict(
        arch='tiny_no_share',
        init_cfg=dict(checkpoint='work_dirs/gcvit_table5_no_global_share/epoch_320.pth'),
    )
)
