# 160k iterations; norms and PEG are not decayed, as in Twins, whose settings the paper names.
_base_ = './adamw_160k.py'

optim_wrapper = dict(
    paramwise_cfg=dict(
        _delete_=True, custom_keys={'norm': dict(decay_mult=0.0), '.peg.': dict(decay_mult=0.0)}
    )
)
