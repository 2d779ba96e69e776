# w/o G-SA, on COCO, from the classifier of the row.
_base_ = '../mask_gcvit_t_3x.py'

model = dict(
    backbone=dict(
        arch='tiny_no_gsa',
        init_cfg=dict(checkpoint='work_dirs/gcvit_table5_no_gsa/epoch_320.pth'),
    )
)
