# SSA (r_c = 1) in all blocks, on ADE20K, from the classifier of the row.
_base_ = '../semfpn_scalablevit_s_80k.py'

model = dict(
    backbone=dict(
        attn_kinds=('ssa', 'ssa'),
        c_ratios=1,
        init_cfg=dict(
            type='Pretrained', checkpoint='work_dirs/scalablevit_table5a_ssa_rc1/epoch_300.pth'
        ),
    )
)
