# WSA in all blocks, on ADE20K, from the classifier of the row.
_base_ = '../semfpn_scalablevit_s_80k.py'

model = dict(
    backbone=dict(
        attn_kinds=('wsa', 'wsa'),
        init_cfg=dict(
            type='Pretrained', checkpoint='work_dirs/scalablevit_table5a_wsa/epoch_300.pth'
        ),
    )
)
