# Window attn + GP Block, on ADE20K, from the classifier of the row.
_base_ = '../segformer_gpvit_l1_160k.py'

model = dict(
    backbone=dict(
        local_attn='window',
        init_cfg=dict(
            type='Pretrained', checkpoint='work_dirs/gpvit_table6_window_gp/epoch_300.pth'
        ),
    )
)
