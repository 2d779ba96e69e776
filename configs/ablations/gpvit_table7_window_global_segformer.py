# Window, Global attn, on ADE20K, from the classifier of the row.
_base_ = '../segformer_gpvit_l1_160k.py'

model = dict(
    backbone=dict(
        local_attn='window',
        global_attn='attention',
        init_cfg=dict(
            type='Pretrained', checkpoint='work_dirs/gpvit_table7_window_global/epoch_300.pth'
        ),
    )
)
