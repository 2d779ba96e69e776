# DeepSpeed's ZeRO-2 in bfloat16: optimizer states and gradients are sharded; checkpoints are whole.
# The config that uses it also writes optim_wrapper = dict(type='DeepSpeedOptimWrapper'), see
# docs/scale_out.md.
runner_type = 'FlexibleRunner'
strategy = dict(
    type='gcvit_mm.engine.zero.ZeroStrategy',
    bf16=dict(enabled=True),
    inputs_to_half=['inputs'],
    zero_optimization=dict(stage=2, overlap_comm=True, contiguous_gradients=True),
)
