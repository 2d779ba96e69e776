# ScalableViT's classifier: a hidden layer of 4096 with norm and GELU before the classes.
_base_ = './cls.py'

model = dict(
    head=dict(
        type='StackedLinearClsHead',
        mid_channels=[4096],
        norm_cfg=dict(type='LN', eps=1e-6),
        act_cfg=dict(type='GELU'),
    )
)
