# w/o over., on ADE20K, from the classifier of the row.
_base_ = '../upernet_gcvit_t_160k.py'

model = dict(
    backbone=dict(
        overlap_patches=False,
        init_cfg=dict(checkpoint='work_dirs/gcvit_table5_no_over/epoch_320.pth'),
    )
)
