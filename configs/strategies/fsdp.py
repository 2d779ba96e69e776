# Fully sharded data parallel: every GPU keeps a part of weights, gradients and optimizer states.
# One unit a block; checkpoints are whole, as a run without FSDP writes them.
runner_type = 'FlexibleRunner'
strategy = dict(
    type='FSDPStrategy',
    model_wrapper=dict(auto_wrap_policy='wrap_blocks', use_orig_params=True),
    state_dict_cfg='full',
)
