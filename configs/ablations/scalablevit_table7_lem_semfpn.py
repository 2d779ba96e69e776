# LEM in the place of LIM, on ADE20K, from the classifier of the row.
_base_ = '../semfpn_scalablevit_s_80k.py'

model = dict(
    backbone=dict(
        interaction='lem',
        init_cfg=dict(
            type='Pretrained', checkpoint='work_dirs/scalablevit_table5b_peg_lem/epoch_300.pth'
        ),
    )
)
