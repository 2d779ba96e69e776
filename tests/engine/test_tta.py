"""Test-time augmentation of masks: equal to the plain test where nothing is augmented."""

import functools

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.dataset import Compose
from mmengine.hub import get_config
from mmengine.structures import InstanceData

from gcvit_mm import UserError
from gcvit_mm.planning.complexity import build_on_meta
from support.detectors import detector

pytest.importorskip('mmdet')

from mmdet.models.test_time_augs import DetTTAModel

from gcvit_mm.engine.tta import MaskTTAModel

TTA = ConfigDict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
NAMES = ('mask_gcvit_xxt_shapes', 'cascade_gcvit_t_3x')
KEYS = ('img_id', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
SIDES = [(64, 96), (80, 64)]  # heights and widths of two images


@functools.lru_cache(maxsize=None)
def built(name):
    """A small detector with fifteen boxes an image; the values of its masks are kept as bytes."""
    model = detector(name).eval()
    if model.with_mask:
        model.roi_head.test_cfg.update(score_thr=0.001, max_per_img=15, mask_thr_binary=-1)
    return model


def pictures():
    """Two images of noise, of different sizes."""
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (*side, 3), dtype=np.uint8) for side in SIDES]


def batch(scales=(1.0,), flips=(None,), images=None):
    """What TestTimeAug makes of images, put together as mmengine does."""
    flip = [
        dict(type='RandomFlip', prob=float(f is not None), direction=f or 'horizontal')
        for f in flips
    ]
    transforms = [
        [dict(type='Resize', scale_factor=s, keep_ratio=True) for s in scales],
        flip,
        [dict(type='mmdet.PackDetInputs', meta_keys=KEYS)],
    ]
    pipeline = Compose([dict(type='TestTimeAug', transforms=transforms)])
    made = [
        pipeline(dict(img=image, img_id=i, img_shape=image.shape[:2], ori_shape=image.shape[:2]))
        for i, image in enumerate(images or pictures())
    ]
    return {key: [list(view) for view in zip(*(row[key] for row in made))] for key in made[0]}


@torch.no_grad()
def predict(model, data):
    """Predictions of a batch."""
    return [sample.pred_instances for sample in model.test_step(data)]


@torch.no_grad()
def plain(model, data):
    """Those of the same images, as without test-time augmentation."""
    return predict(model, {key: views[0] for key, views in data.items()})


def merged(name, data):
    """Predictions of a batch with test-time augmentation."""
    return predict(MaskTTAModel(module=built(name), tta_cfg=TTA), data)


def assert_equal(found, expected, keys=('bboxes', 'scores', 'labels', 'masks')):
    """Both are the same, image by image, and there is something to compare."""
    assert len(found) == len(expected) == len(SIDES)
    for one, other in zip(found, expected):
        assert len(one) and set(one.keys()) == set(other.keys())
        for key in keys:
            assert torch.equal(one[key], other[key]), key


@pytest.mark.parametrize('name', NAMES)
def test_nothing_augmented_is_the_plain_test(name, monkeypatch):
    """Boxes, scores, labels and masks of two images of different sizes are the same, bit by bit."""
    monkeypatch.setitem(built(name).roi_head.test_cfg, 'mask_thr_binary', 0.5)
    expected = plain(built(name), batch())
    assert_equal(merged(name, batch()), expected)
    assert expected[0].masks.shape[1:] == SIDES[0] and expected[0].masks.dtype == torch.bool
    assert 0 < expected[0].masks.float().mean() < 1
    assert_equal(merged(name, batch(scales=(1.0, 1.0))), expected)


@pytest.mark.parametrize('name', NAMES)
def test_one_scale_is_the_plain_test_at_it(name):
    """Boxes are those of the plain test; masks are cut out at boxes that were scaled and back."""
    data = batch(scales=(1.5,))
    found, expected = merged(name, data), plain(built(name), batch(scales=(1.5,)))
    assert_equal(found, expected, ('bboxes', 'scores', 'labels'))
    for one, other in zip(found, expected):
        assert (one.masks.int() - other.masks.int()).abs().max() <= 1


@pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal'])
def test_flip_alone_is_the_plain_test_of_flipped_images(direction):
    """What is found in the mirrored image, mirrored."""
    name = NAMES[0]
    axes = dict(horizontal=[1], vertical=[0], diagonal=[0, 1])[direction]
    mirrored = [np.ascontiguousarray(np.flip(image, axes)) for image in pictures()]
    expected = plain(built(name), batch(images=mirrored))
    for one, other, (height, width) in zip(
        merged(name, batch(flips=(direction,))), expected, SIDES
    ):
        x1, y1, x2, y2 = other.bboxes.unbind(1)
        if 1 in axes:
            x1, x2 = width - x2, width - x1
        if 0 in axes:
            y1, y2 = height - y2, height - y1
        assert len(one)
        assert torch.allclose(one.bboxes, torch.stack([x1, y1, x2, y2], 1), atol=1e-4)
        assert torch.equal(one.labels, other.labels)
        masks = other.masks.flip([axis + 1 for axis in axes]).int()
        assert (one.masks.int() - masks).abs().max() <= 1


@pytest.mark.parametrize('name', NAMES)
def test_masks_are_the_mean_of_all_augmentations(name, monkeypatch):
    """Heads that say where they look: left 0.8, right 0.4; flipped and not, that is 0.6."""
    model = built(name)
    heads = model.roi_head.mask_head
    heads = heads if isinstance(heads, torch.nn.ModuleList) else [heads]

    def left(feats):
        chance = torch.full((len(feats), heads[0].num_classes, 28, 28), 0.4)
        chance[..., :14] = 0.8
        return torch.logit(chance)

    for head in heads:
        monkeypatch.setattr(head, 'forward', left)
    for one in merged(name, batch(flips=('horizontal',))):
        assert {102, 204} <= set(one.masks.unique().tolist())
    for one in merged(name, batch(scales=(1.5,), flips=(None, 'horizontal'))):
        # not at the border of a box, where it fades
        values, counts = one.masks[one.masks > 0].unique(return_counts=True)
        assert values[counts.argmax()] in (152, 153) and values.max() <= 153


@pytest.mark.parametrize('name', NAMES)
def test_boxes_are_those_of_mmdet(name, monkeypatch):
    """Those that DetTTAModel gives for the same detector without its mask head."""
    data = dict(scales=(1.5,), flips=(None, 'horizontal'))
    found = merged(name, batch(**data))
    monkeypatch.setitem(built(name).roi_head._modules, 'mask_head', None)
    expected = predict(DetTTAModel(module=built(name), tta_cfg=TTA), batch(**data))
    for one, other in zip(found, expected):
        assert len(one) == len(other) > 15
        assert one.masks.shape[0] == len(one)
        for key in ('bboxes', 'scores', 'labels'):
            assert torch.allclose(one[key], other[key], atol=1e-4), key


def test_detectors_without_masks_are_left_to_mmdet():
    """RetinaNet: bit by bit."""
    model, data = built('retinanet_gpvit_l1_1x'), dict(flips=(None, 'horizontal'))
    model.test_cfg.update(score_thr=0.0, max_per_img=15)
    found = predict(MaskTTAModel(module=model, tta_cfg=TTA), batch(**data))
    expected = predict(DetTTAModel(module=model, tta_cfg=TTA), batch(**data))
    assert_equal(found, expected, ('bboxes', 'scores', 'labels'))


@pytest.mark.parametrize('name, empty', [(NAMES[0], (0, 1)), (NAMES[0], (1,)), (NAMES[1], (0,))])
def test_images_without_detections(name, empty, monkeypatch):
    """No boxes in one image or in all: no masks of its size; the other is as in the plain test."""
    roi_head = built(name).roi_head
    predict_bbox, expected = roi_head.predict_bbox, plain(built(name), batch())

    def some(*args, **kwargs):
        results = predict_bbox(*args, **kwargs)
        return [each[:0] if i in empty else each for i, each in enumerate(results)]

    monkeypatch.setattr(roi_head, 'predict_bbox', some)
    found = merged(name, batch(flips=(None, None)))
    for i, side in enumerate(SIDES):
        count = 0 if i in empty else len(expected[i])
        assert found[i].masks.shape == (count, *side)
        assert found[i].bboxes.shape == (count, 4)
        assert count == 0 or torch.equal(found[i].masks, expected[i].masks)


def test_no_proposals(monkeypatch):
    """Nothing at all, from the first stage on."""
    model = built(NAMES[0])
    nothing = InstanceData(bboxes=torch.zeros(0, 4))
    monkeypatch.setattr(model.rpn_head, 'predict', lambda *args, **kwargs: [nothing, nothing])
    for one, side in zip(merged(NAMES[0], batch(flips=(None, 'horizontal'))), SIDES):
        assert one.masks.shape == (0, *side) and len(one.scores) == 0


def test_other_masks_are_refused():
    """PointRend refines its masks with maps of the image."""
    cfg = get_config('mmdet::point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py')
    with pytest.raises(UserError, match='PointRend with PointRendRoIHead is not known'):
        MaskTTAModel(module=build_on_meta(cfg), tta_cfg=TTA)
