# w/o pos., on COCO, from the classifier of the row.
_base_ = '../mask_gcvit_t_3x.py'

model = dict(
    backbone=dict(
        rel_pos_bias=False,
        init_cfg=dict(checkpoint='work_dirs/gcvit_table5_no_pos/epoch_320.pth'),
    )
)
