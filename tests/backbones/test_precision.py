"""Mixed precision: gradients in float16 and bfloat16 are finite, and those of float32."""

import pytest
import torch
from mmengine.optim import AmpOptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch.nn.functional import cosine_similarity

from support.devices import CUDA
from support.families import FAMILIES, make, strides

DTYPES = {'bfloat16': torch.bfloat16, 'float16': torch.float16}
SIZE = (85, 115)  # fits no window, and no pair of stripes
STEP_SIZE = (45, 51)  # nor does this; convolutions in float16 are slow on CPUs
SCALE = 2.0**16  # torch's GradScaler begins with it
# What the usual settings of a family leave out: masks of minus infinity, shifted windows.
VARIANTS = {
    **{family: (family, {}) for family in FAMILIES},
    'gpvit_adapter': ('gpvit_adapter', dict(hidden_dims=16)),  # narrow: float16 is slow on CPUs
    'gcvit, padding hidden': ('gcvit', dict(mask_padding=True)),
    'gcvit, own queries': ('gcvit', dict(global_query='own')),
    'gpvit, windows': ('gpvit', dict(local_attn='window', global_attn='shift')),
    'gpvit, attention': ('gpvit', dict(propagation='attention')),
}


@pytest.fixture(params=VARIANTS, ids=str)
def variant(request):
    """A family and settings."""
    return VARIANTS[request.param]


@pytest.fixture(params=DTYPES)
def dtype(request):
    """The narrow type."""
    return DTYPES[request.param]


def quick(dtype):
    """oneDNN takes seven times as long in float16 as torch itself, where it has no instructions."""
    return torch.backends.mkldnn.flags(enabled=dtype is not torch.float16)


def gradients(model, images, dtype=None):
    """Gradients by name, for a loss that all maps have a part in, each pixel by another weight."""
    model.zero_grad()
    with torch.autocast(images.device.type, dtype, enabled=dtype is not None), quick(dtype):
        maps = model(images)
    generator = torch.Generator().manual_seed(1)
    weights = (torch.randn(m.shape, generator=generator).to(m.device) for m in maps)
    loss = sum((m.float() * w).mean() for m, w in zip(maps, weights))
    scale = SCALE if dtype is torch.float16 else 1.0
    with quick(dtype):
        (scale * loss).backward()
    return {name: p.grad / scale for name, p in model.named_parameters()}


def test_gradients_are_those_of_float32(variant, device):
    """All finite, and the same direction; with padded windows, blocks recomputed."""
    family, settings = variant
    model = make(family, with_cp=True, **settings).train().to(device)
    images = torch.randn(2, 3, *SIZE, device=device)
    wide = gradients(model, images)
    total = torch.cat([grad.flatten() for grad in wide.values()])
    # what is nearly zero has no direction: biases of keys, those before a norm
    large = [name for name, grad in wide.items() if grad.norm() > 1e-2 * total.norm()]
    for dtype in DTYPES.values():
        narrow = gradients(model, images, dtype)
        assert all(grad.isfinite().all() for grad in narrow.values()), dtype
        other = torch.cat([grad.flatten() for grad in narrow.values()])
        assert cosine_similarity(total, other, 0) > 0.97, dtype
        assert 0.95 < other.norm() / total.norm() < 1.05, dtype
        for name in large:
            a, b = wide[name].flatten(), narrow[name].flatten()
            assert cosine_similarity(a, b, 0) > 0.95, (dtype, name)


def test_the_comparison_can_fail(dtype):
    """Gradients of a loss with another weight for each pixel are not alike by themselves."""
    model = make('gcvit').train()
    images = torch.randn(2, 2, 3, *SIZE)
    a, b = (torch.cat([g.flatten() for g in gradients(model, i).values()]) for i in images)
    assert cosine_similarity(a, b, 0) < 0.9


@pytest.mark.parametrize('family', FAMILIES)
def test_no_step_is_skipped(family, dtype, device):
    """Steps with dropped paths and recomputed blocks: no gradient overflows, the loss falls."""
    family, settings = VARIANTS[family]
    model = make(family, 0.2, with_cp=True, **settings).train().to(device)
    images = torch.randn(2, 3, *STEP_SIZE, device=device)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    scaler = torch.amp.GradScaler(device, init_scale=SCALE, enabled=dtype is torch.float16)
    losses = []
    for step in range(3):
        optimizer.zero_grad()
        with torch.autocast(device, dtype), quick(dtype):
            maps = model(images)
            loss = sum((m.float() - 1).square().mean() for m in maps)
        with quick(dtype):
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        for name, p in model.named_parameters():
            assert p.grad.isfinite().all(), f'{name} in step {step + 1}'
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


# ------------------------------------------------------------- with mmdet's and mmseg's heads
def backbone_cfg(family):
    """Config of a small backbone, the channels and the strides of its maps."""
    cls, arch = FAMILIES[family]
    cfg = dict(type=cls.__name__, arch=dict(arch, drop_path_rate=0.1), with_cp=True)
    cfg.update(VARIANTS[family][1])
    return cfg, list(make(family).out_channels), list(strides(family))


def detector(family):
    """A small RetinaNet, and images with boxes."""
    pytest.importorskip('mmdet')
    from mmdet.testing import demo_mm_inputs

    init_default_scope('mmdet')
    backbone, channels, levels = backbone_cfg(family)
    model = MODELS.build(
        dict(
            type='RetinaNet',
            data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=1),
            backbone=backbone,
            neck=dict(
                type='FPN', in_channels=channels, out_channels=16, num_outs=len(channels) + 1
            ),
            bbox_head=dict(
                type='RetinaHead',
                num_classes=3,
                in_channels=16,
                stacked_convs=1,
                feat_channels=16,
                anchor_generator=dict(
                    type='AnchorGenerator',
                    octave_base_scale=4,
                    scales_per_octave=1,
                    ratios=[1.0],
                    strides=[*levels, 2 * levels[-1]],
                ),
                bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
                loss_bbox=dict(type='L1Loss', loss_weight=1.0),
            ),
            train_cfg=dict(
                assigner=dict(
                    type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0
                ),
                sampler=dict(type='PseudoSampler'),
                allowed_border=-1,
                pos_weight=-1,
            ),
        )
    )
    return model, demo_mm_inputs(2, [[3, 75, 107], [3, 64, 96]], num_items=[3, 2], num_classes=3)


def segmentor(family):
    """A small FCN, and images with label maps."""
    pytest.importorskip('mmseg')
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    init_default_scope('mmseg')
    backbone, channels, _ = backbone_cfg(family)
    model = MODELS.build(
        dict(
            type='EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor', size=(75, 107)),
            backbone=backbone,
            decode_head=dict(
                type='FCNHead',
                in_channels=channels,
                in_index=list(range(len(channels))),
                input_transform='resize_concat',
                channels=16,
                num_convs=1,
                num_classes=3,
                norm_cfg=dict(type='BN'),
                align_corners=False,
            ),
        )
    )
    samples = [
        SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 3, (1, 75, 107))))
        for _ in range(2)
    ]
    return model, dict(inputs=list(torch.rand(2, 3, 75, 107)), data_samples=samples)


def amp_wrapper(model, dtype, monkeypatch):
    """mmengine's wrapper; it is asked to do without a GPU where there is none."""
    with monkeypatch.context() as patch:
        patch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        return AmpOptimWrapper(optimizer=optimizer, dtype=dtype, loss_scale='dynamic')


@pytest.mark.parametrize(
    'device, dtype',
    [
        ('cpu', 'bfloat16'),  # all that mmengine's autocast takes there
        *(pytest.param('cuda', dtype, marks=CUDA.marks) for dtype in DTYPES),
    ],
)
@pytest.mark.parametrize('build', [detector, segmentor], ids=lambda build: build.__name__)
@pytest.mark.parametrize('family', FAMILIES)
def test_heads_train_with_amp_wrapper(family, build, device, dtype, monkeypatch):
    """Three steps as the runner takes them: every gradient is finite, every weight moves."""
    model, data = build(family)
    model = model.to(device).train()
    wrapper = amp_wrapper(model, dtype, monkeypatch)
    seen = set()

    def look(name, grad):
        assert grad.isfinite().all(), name
        seen.add(name)

    for name, p in model.named_parameters():
        p.register_hook(lambda grad, name=name: look(name, grad))
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(3):
        log = model.train_step(data, wrapper)
        assert all(value.isfinite() for name, value in log.items() if 'loss' in name)
    assert seen == set(start)
    for name, p in model.named_parameters():
        assert p.dtype is torch.float32 and p.isfinite().all()
        assert not torch.equal(p, start[name]), name
