"""Every backbone on a fake GPU: devices, types, and whether attention would be fused."""

import pytest
import torch

from gcvit_mm import GCViT, GGDeiT, GGTransformer, GPViT, GPViTAdapter, GroupNeck, ScalableViT
from support.cuda import (
    Call,
    fake_cuda,
    recorded_attention,
    run_on_fake_cuda,
    to_fake_cuda,
    two_blocks,
    unfused,
)
from support.detectors import SMALL, detector

# The first layers: a local one, one with groups, a local one; those that follow repeat them.
THREE = dict(out_indices=(2,))
# Every ablation switch that changes a forward pass.
MODELS = {
    'gcvit': (GCViT, dict(arch='xxtiny')),
    'gcvit windows 24': (GCViT, dict(arch='tiny', window_size=24, query_pools=(3, 2, 1, 0))),
    'gcvit rectangles': (GCViT, dict(arch='xxtiny', window_size=(7, (5, 9), 14, 7))),
    'gcvit own': (GCViT, dict(arch='xxtiny', global_query='own', overlap_patches=False)),
    'gcvit none': (GCViT, dict(arch='xxtiny', global_query='none', rel_pos_bias=False)),
    'gcvit masked': (GCViT, dict(arch='small', mask_padding=True)),
    'gg': (GGTransformer, {}),
    'gg attn': (GGTransformer, dict(gaze='attn', rel_pos_bias=False)),
    'gg none': (GGTransformer, dict(gaze='none', mask_padding=False)),
    'gg without glance': (GGTransformer, dict(gaze=('only', 'swin', 'msa', 'swin'))),
    'ggdeit': (GGDeiT, {}),
    'ggdeit token': (GGDeiT, dict(out_type='cls_token', arch='small')),
    'ggdeit without token': (GGDeiT, dict(with_cls_token=False)),
    'scalablevit': (ScalableViT, {}),
    'scalablevit large': (ScalableViT, dict(arch='large')),
    'scalablevit lem': (ScalableViT, dict(interaction='lem', peg=False)),
    'scalablevit wsa': (ScalableViT, dict(attn_kinds=('wsa', 'iwsa'), interaction='none')),
    'scalablevit shifted': (ScalableViT, dict(attn_kinds=('swsa', 'ssa'))),
    'gpvit L1': (GPViT, dict(out_indices=(2, 5, 8, 11))),
    'gpvit L2': (GPViT, dict(arch='L2', **THREE)),
    'gpvit L3': (GPViT, dict(arch='L3', **THREE)),
    'gpvit L4': (GPViT, dict(arch='L4', **THREE)),
    'gpvit windows': (GPViT, dict(local_attn='window', global_attn='attention', **THREE)),
    'gpvit shift': (GPViT, dict(local_attn='window', global_attn='shift', **THREE)),
    'gpvit conv': (GPViT, dict(global_attn='conv', propagation='attention', **THREE)),
    'gpvit bias': (
        GPViT,
        dict(local_attn='window', global_attn='shift', rel_pos_bias=True, **THREE),
    ),
    'gpvit plain': (GPViT, dict(arch='D216', patch_size=16, **THREE)),
    'gpvit none': (GPViT, dict(propagation='none', **THREE)),
    'gpvit adapter': (GPViTAdapter, {}),
    'gpvit adapter L4': (GPViTAdapter, dict(arch='L4', out_strides=(8, 16, 32))),
}
PASSES = {
    'eval': (torch.float32, False, (97, 131), False),
    'train': (torch.bfloat16, True, (250, 333), False),
    'with_cp': (torch.bfloat16, True, (224, 224), True),
}
# Recomputation wraps blocks, whatever is in them: it is asked of one model a class.
RECOMPUTED = {cls: name for name, (cls, _) in reversed(MODELS.items())}


@pytest.mark.parametrize(
    ('name', 'how'),
    [
        (name, how)
        for name, (cls, options) in MODELS.items()
        for how in PASSES
        if how == 'eval'
        # the others train in configs
        or (how == 'train' and set(options) - {'arch', 'out_indices'})
        or (how == 'with_cp' and name == RECOMPUTED[cls])
    ],
)
def test_backbone(name, how):
    """Nothing is made elsewhere, nothing changes its type, and every attention can be fused."""
    cls, options = MODELS[name]
    dtype, training, size, with_cp = PASSES[how]
    model = two_blocks(cls, with_cp=with_cp, **options).train(training)
    with fake_cuda():
        outputs, calls = run_on_fake_cuda(model, dtype, size)
        for out in outputs:
            assert out.is_cuda and out.dtype == torch.float32 or out.dtype == dtype
            assert out.requires_grad
        assert calls and all(call.q.is_cuda for call in calls)
        assert all(call.q.dtype == dtype for call in calls)
        assert {unfused(call) for call in calls} == {''}


def test_neck():
    """The pooling of GPViT's classifiers."""
    with fake_cuda():
        neck = to_fake_cuda(GroupNeck(216))
        with recorded_attention() as calls, torch.autocast('cuda', torch.bfloat16):
            (pooled,) = neck([torch.empty(2, 216, 9, 13, device='cuda')])
        assert pooled.is_cuda and pooled.shape == (2, 216)
        assert [unfused(call) for call in calls] == ['']


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_detectors(name, dtype):
    """Backbone, neck and dense head of the detectors that train here, up to where boxes are."""
    pytest.importorskip('mmdet')
    model = detector(name)
    head = getattr(model, 'rpn_head', None) or model.bbox_head
    with fake_cuda():
        to_fake_cuda(model)
        with torch.autocast('cuda', dtype, dtype != torch.float32):
            maps = model.extract_feat(torch.empty(2, 3, 96, 128, device='cuda'))
            outputs = [] if 'dino' in name else [x for levels in head(maps) for x in levels]
    assert len(outputs) == (0 if 'dino' in name else 2 * len(maps))
    for x in [*maps, *outputs]:  # group norms of DINO's neck give float32
        assert x.is_cuda and x.dtype in (dtype, torch.float32) and x.requires_grad


def test_rules_are_asked():
    """What the rules refuse: each of them."""
    q = torch.empty(2, 3, 49, 32, dtype=torch.bfloat16)
    bias = torch.empty(2, 3, 49, 56, dtype=torch.bfloat16)[..., :49]
    assert not unfused(Call(q, q, q, bias))
    narrow = torch.empty(2, 3, 49, 18, dtype=torch.bfloat16)
    assert 'heads of 18' in unfused(Call(narrow, narrow, narrow, None))
    assert 'the bias is' in unfused(Call(q, q, q, bias.float()))
    assert 'strides of the bias' in unfused(Call(q, q, q, bias.contiguous()))
    assert 'are torch' in unfused(Call(q, q.float(), q, None))
    assert 'queries are' in unfused(Call(q.double(), q.double(), q.double(), None))
    assert 'innermost' in unfused(Call(q.mT.contiguous().mT, q, q, None))


def test_wrong_device_is_an_error():
    """A tensor that a layer makes on the CPU."""
    model = GCViT('xxtiny')
    model.stages[0].blocks[0].attn.proj_drop = Misplaced()
    with fake_cuda(), pytest.raises(RuntimeError, match='device'):
        run_on_fake_cuda(model, torch.float32, (64, 64))


class Misplaced(torch.nn.Module):
    """Adds a tensor that is always on the CPU."""

    def forward(self, x):
        return x + torch.ones(x.shape[-1])
