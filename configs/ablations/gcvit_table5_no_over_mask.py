# w/o over., on COCO, from the classifier of the row.
_base_ = '../mask_gcvit_t_3x.py'

model = dict(
    backbone=dict(
        overlap_patches=False,
        init_cfg=dict(checkpoint='work_dirs/gcvit_table5_no_over/epoch_320.pth'),
    )
)
