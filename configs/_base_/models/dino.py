# DINO with four scales, 12 epochs on COCO boxes, as mmdet has it. mmdet offers it as a whole: data
# sets, schedule and runtime are its own too, and no other base but the backbone stands beside it.
# Learning rates are its rates: a tenth for the backbone, gradients clipped at norm 0.1; as there,
# norms and position bias tables are decayed (by 1e-4) with the rest.
_base_ = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'

custom_imports = dict(imports=['gcvit_mm'], allow_failed_imports=False)
optim_wrapper = dict(constructor='CheckedOptimWrapperConstructor')
default_hooks = dict(
    checkpoint=dict(
        type='SafeCheckpointHook', max_keep_ckpts=3, save_best='coco/bbox_mAP', rule='greater'
    ),
    non_finite=dict(type='StopOnNonFinite'),
    batch_size=dict(type='CheckBatchSize'),
    seeds=dict(type='SeedEveryStep'),
    stop=dict(type='StopOnSignal'),
)
