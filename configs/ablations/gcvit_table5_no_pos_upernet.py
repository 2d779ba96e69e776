# w/o pos., on ADE20K, from the classifier of the row.
_base_ = '../upernet_gcvit_t_160k.py'

model = dict(
    backbone=dict(
        rel_pos_bias=False,
        init_cfg=dict(checkpoint='work_dirs/gcvit_table5_no_pos/epoch_320.pth'),
    )
)
