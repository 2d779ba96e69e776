"""Detectors that compute channels-last on a CPU give what they gave."""

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS

pytest.importorskip('mmdet')

from mmdet.models import DetTTAModel

from gcvit_mm import cli
from gcvit_mm.channels_last import go_channels_last
from support.detectors import decided, detector, images, predict
from support.running import ROOT

NAMES = ('mask_gcvit_xxt_shapes', 'cascade_gcvit_t_3x', 'retinanet_gpvit_l1_1x')
SABL = dict(
    type='SABLHead',
    num_classes=5,
    cls_in_channels=32,
    reg_in_channels=32,
    bbox_coder=dict(type='BucketingBBoxCoder', num_buckets=14, scale_factor=1.7),
    loss_bbox_cls=dict(type='CrossEntropyLoss', use_sigmoid=True),
    loss_bbox_reg=dict(type='SmoothL1Loss', beta=0.1),
)


def is_channels_last(x):
    """Whether a map or a weight with several channels and pixels lies so, and not otherwise."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def laid_out(model):
    """Whether weights behind the backbone lie channels-last: all, or none of them."""
    weights = {  # strides tell of kernels of one pixel too
        key: p.stride() == p.to(memory_format=torch.channels_last).stride()
        for key, p in model.named_parameters()
        if not key.startswith('backbone.') and p.dim() == 4
    }
    assert weights and len(set(weights.values())) == 1, weights
    return next(iter(weights.values()))


@pytest.mark.parametrize('name', NAMES)
def test_losses_and_gradients_stay(name):
    """A step of training, up to rounding; maps of the neck come out channels-last."""
    found, maps = [], []
    for change in (lambda model: None, go_channels_last):
        model = detector(name)
        change(model)
        model.neck.register_forward_hook(lambda m, x, out: maps.append(out[0]))
        torch.manual_seed(0)
        losses = model.train_step(images(), OptimWrapper(torch.optim.SGD(model.parameters(), 0.0)))
        found.append((model, {key: float(value) for key, value in losses.items()}))
    (first, before), (second, after) = found
    assert [laid_out(model) for model in (first, second)] == [False, True]
    assert is_channels_last(maps[1])
    assert after == pytest.approx(before, rel=1e-4)
    for (key, a), b in zip(first.named_parameters(), second.parameters()):
        assert (a.grad is None) == (b.grad is None), key
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-4, msg=key)
            assert b.grad.stride() == b.stride(), key


@pytest.mark.parametrize('name', NAMES)
def test_predictions_stay(name):
    """Boxes, classes and masks of a detector that finds something."""
    model = decided(detector(name))
    pictures = torch.randint(0, 256, (2, 3, 96, 128), generator=torch.Generator().manual_seed(0))
    before = predict(model, pictures)
    go_channels_last(DetTTAModel(module=model))
    after = predict(model, pictures)
    assert laid_out(model) and sum(map(len, before)) >= 10
    for a, b in zip(before, after):
        assert torch.equal(a.labels, b.labels)
        torch.testing.assert_close(b.scores, a.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(b.bboxes, a.bboxes, rtol=1e-4, atol=1e-2)
        if 'masks' in a:
            assert (a.masks != b.masks).float().mean() < 1e-3


@pytest.mark.parametrize(
    'name, changes',
    [
        ('dino_gcvit_t_1x', {}),
        ('mask_gcvit_xxt_shapes', dict(roi_head=dict(bbox_head=dict(SABL, _delete_=True)))),
        ('mask_gcvit_xxt_shapes', dict(neck=dict(type='PAFPN'))),
    ],
)
def test_others_are_left_alone(name, changes):
    """Heads that view maps as (B, C, -1), and whatever was not tried."""
    model = detector(name, **changes)
    go_channels_last(model)
    assert not laid_out(model)


def test_a_head_of_the_users_is_left_alone(monkeypatch):
    """Also one that is called as mmdet's."""
    from mmdet.models import FCNMaskHead

    class Theirs(FCNMaskHead):
        pass

    Theirs.__name__ = 'FCNMaskHead'
    monkeypatch.setitem(MODELS.children['mmdet']._module_dict, 'TheirMaskHead', Theirs)
    model = detector('mask_gcvit_xxt_shapes', roi_head=dict(mask_head=dict(type='TheirMaskHead')))
    assert type(model.roi_head.mask_head) is Theirs
    go_channels_last(model)
    assert not laid_out(model)


def test_the_tools_build_it(tmp_path):
    """The runner of training and testing, and what predicts, on a CPU."""
    if torch.cuda.is_available():
        pytest.skip('the tools use the GPU')
    cfg = cli.load_config(str(ROOT / 'configs/mask_gcvit_xxt_shapes.py'))
    cfg.work_dir, cfg.launcher = str(tmp_path), 'none'
    cli.use_cpu(cfg)
    assert laid_out(cli.build_runner(cfg).model)
    assert [laid_out(cli.build_model(cfg, device)) for device in ('cpu', 'cuda')] == [True, False]
