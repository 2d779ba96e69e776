# What every run has, whatever its task.
custom_imports = dict(imports=['gcvit_mm'], allow_failed_imports=False)
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
# gcvit_mm's own; docs/robustness.md says what they do, and NAME=None takes one away.
default_hooks = dict(
    non_finite=dict(type='StopOnNonFinite'),
    batch_size=dict(type='CheckBatchSize'),
    seeds=dict(type='SeedEveryStep'),
    stop=dict(type='StopOnSignal'),
)
vis_backends = [dict(type='LocalVisBackend')]
log_level = 'INFO'
load_from = None
resume = False
