# ViT-D216-P16, on ADE20K, from the classifier of the row.
_base_ = '../segformer_gpvit_l1_160k.py'

model = dict(
    backbone=dict(
        arch='D216',
        patch_size=16,
        init_cfg=dict(
            type='Pretrained', checkpoint='work_dirs/gpvit_table6_vit_d216_p16/epoch_300.pth'
        ),
    )
)
