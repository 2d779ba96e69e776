"""Detectors written so that they can be traced give what mmdet's predict gives."""

import pytest
import torch
from torchvision.ops import roi_align

pytest.importorskip('mmdet')

from mmdet.models.roi_heads import SingleRoIExtractor
from mmdet.models.task_modules import DeltaXYWHBBoxCoder

from gcvit_mm import UserError
from gcvit_mm.deploy.boxes import Found, best, decode, roi_feats, suppress
from gcvit_mm.deploy.counterparts import detector_to_export
from support.detectors import decided, detector, predict

AGNOSTIC = dict(
    roi_head=dict(
        bbox_head=[
            dict(
                type='Shared2FCBBoxHead',
                in_channels=32,
                fc_out_channels=32,
                num_classes=5,
                reg_class_agnostic=True,
                bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
                loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False),
                loss_bbox=dict(type='L1Loss'),
            )
        ]
        * 3,
        mask_head=dict(class_agnostic=True),
    )
)
BOXES_ONLY = dict(type='FasterRCNN', roi_head=dict(mask_head=None))
# Another classifier than the sigmoids of the shipped configs.
SOFTMAX = dict(
    rpn_head=dict(loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False)),
)
CASES = {
    'retinanet': ('retinanet_gpvit_l1_1x', {}),
    'mask': ('mask_gcvit_xxt_shapes', {}),
    'boxes only': ('mask_gcvit_xxt_shapes', {**BOXES_ONLY, **SOFTMAX}),
    'cascade': ('cascade_gcvit_t_3x', {}),
    'class-agnostic': ('cascade_gcvit_t_3x', AGNOSTIC),
    'dino': ('dino_gcvit_t_1x', {}),
}


@pytest.mark.parametrize('case', CASES)
def test_as_mmdet(case):
    """Boxes to 1e-5 of a side, scores and masks to 1e-5; two images, whose sides need padding."""
    name, changes = CASES[case]
    model = decided(detector(name, **changes))
    pictures = torch.randint(0, 256, (2, 3, 77, 131), generator=torch.Generator().manual_seed(3))
    wanted = predict(model, pictures)
    image = model.data_preprocessor(dict(inputs=list(pictures), data_samples=None))['inputs']
    path = detector_to_export(model).eval()
    with torch.no_grad():
        found = dict(zip(path.outputs, path(image[:, :, :77, :131])))
    for i, instances in enumerate(wanted):
        own = {key: value[found['images'] == i] for key, value in found.items()}
        assert len(instances) == len(own['boxes']) > 5
        assert torch.equal(own['labels'], instances.labels)
        torch.testing.assert_close(own['scores'], instances.scores, atol=1e-5, rtol=0)
        torch.testing.assert_close(own['boxes'], instances.bboxes, atol=131e-5, rtol=0)
        assert ('masks' in own) == ('masks' in instances)


def test_masks_as_mmdet():
    """Probabilities to 1e-5, before they are pasted."""
    model = decided(detector('cascade_gcvit_t_3x'))
    seen = []
    head = model.roi_head.mask_head[-1]
    paste = head._predict_by_feat_single
    head._predict_by_feat_single = lambda **given: seen.append(given) or paste(**given)
    pictures = torch.randint(0, 256, (1, 3, 64, 96), generator=torch.Generator().manual_seed(3))
    predict(model, pictures)
    (given,) = seen
    image = model.data_preprocessor(dict(inputs=list(pictures), data_samples=None))['inputs']
    with torch.no_grad():
        masks = detector_to_export(model).eval()(image)[-1]
    wanted = given['mask_preds'][range(len(masks)), given['labels']]
    assert len(masks) > 5 and masks.std() > 0.1
    torch.testing.assert_close(masks, wanted, atol=1e-5, rtol=0)


def test_nothing_found():
    """No box above the threshold, and no proposal at all: empty results, not an error."""
    model = decided(detector('mask_gcvit_xxt_shapes'))
    path, image = detector_to_export(model).eval(), torch.randn(2, 3, 40, 70)
    model.roi_head.test_cfg.score_thr = 1.0
    with torch.no_grad():
        shapes = [tuple(part.shape) for part in path(image)]
        assert shapes == [(0, 4), (0,), (0,), (0,), (0, 28, 28)]
        model.rpn_head.test_cfg.min_bbox_size = 1000
        assert [tuple(part.shape) for part in path(image)] == shapes


@pytest.mark.parametrize('clip', [True, False])
def test_decode(clip):
    """As mmdet's coder, with changes far above its limits and centres outside the image."""
    coder = DeltaXYWHBBoxCoder((0.1, 0, 0, 0), (0.1, 0.1, 0.2, 0.2), clip_border=clip)
    corners = torch.rand(50, 2, 2).sort(1)[0] * 90
    boxes, deltas = corners.flatten(1), torch.randn(50, 4) * 30
    wanted = coder.decode(boxes, deltas, max_shape=(60, 80))
    torch.testing.assert_close(decode(coder, boxes, deltas, 60, 80), wanted)


def test_best():
    """Fewer than asked for, none above the threshold, and more than are asked for."""
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.0, 0.2, 0.2]])
    for count, least, wanted in (
        (2, 0.3, [(0, 1), (0, 2)]),
        (9, 0.15, [(0, 1), (0, 2), (1, 1), (1, 2)]),
        (9, -1, [(0, 1), (0, 2), (0, 0), (1, 1), (1, 2), (1, 0)]),
        (2, 0.9, []),
    ):
        images, places, values = best(scores, count, least)
        assert sorted(zip(images.tolist(), places.tolist())) == sorted(wanted)
        assert torch.equal(values, scores[images, places])


def test_suppress():
    """Groups and images apart, at most so many of an image, the best of all first."""
    box = torch.tensor([[0.0, 0, 10, 10]])
    found = Found(
        box.repeat(6, 1),
        torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]),
        torch.tensor([1, 1, 0, 1, 2, 1]),
        torch.tensor([1, 1, 1, 0, 1, 2]),
    )
    cfg = detector('retinanet_gpvit_l1_1x').test_cfg
    cfg.max_per_img = 2
    kept = suppress(found, found.labels, cfg, 3)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.7, 0.6, 0.4])
    cfg.max_per_img = -1
    assert len(suppress(found, found.labels, cfg, 3).scores) == 5


def test_levels():
    """Each box is cut out of the map that mmdet chooses, at the limits of its rule too."""
    layer = dict(type='RoIAlign', output_size=3, sampling_ratio=0)
    extractor = SingleRoIExtractor(layer, 2, [4, 8, 16])
    feats = [torch.randn(2, 2, 64 // 2**i, 64 // 2**i) for i in range(3)]
    sides = torch.tensor([1.0, 20, 111, 112, 113, 223, 224, 225, 230, 0])
    rois = torch.stack([sides % 2, sides * 0 + 3, sides * 0 + 5, sides + 3, sides + 5], 1)
    torch.testing.assert_close(roi_feats(extractor, feats, rois), extractor(feats, rois))
    one = SingleRoIExtractor(layer, 2, [4])
    wanted = roi_align(feats[0], rois, 3, 0.25, 0, True)
    torch.testing.assert_close(roi_feats(one, feats[:1], rois), wanted)


@pytest.mark.parametrize(
    ('name', 'change', 'message'),
    [
        ('retinanet_gpvit_l1_1x', dict(type='FCOS'), 'model is FCOS, which has no counterpart'),
        (
            'retinanet_gpvit_l1_1x',
            dict(test_cfg=dict(nms=dict(type='soft_nms', iou_threshold=0.5))),
            'model.test_cfg.nms is .*soft_nms',
        ),
        (
            'mask_gcvit_xxt_shapes',
            dict(roi_head=dict(type='DoubleHeadRoIHead', reg_roi_scale_factor=1.3)),
            'model.roi_head is DoubleHeadRoIHead',
        ),
        (
            'mask_gcvit_xxt_shapes',
            dict(
                roi_head=dict(
                    mask_roi_extractor=dict(type='GenericRoIExtractor', aggregation='sum')
                )
            ),
            'model.roi_head.mask_roi_extractor is GenericRoIExtractor',
        ),
        (
            'dino_gcvit_t_1x',
            dict(data_preprocessor=dict(pad_size_divisor=32)),
            'model.data_preprocessor.pad_size_divisor is 32',
        ),
    ],
)
def test_no_counterpart(name, change, message):
    """What the export does not know is named, before anything is exported."""
    with pytest.raises(UserError, match=message):
        detector_to_export(detector(name, **change))


def test_dino_needs_tokens():
    """An image that has fewer tokens than there are queries."""
    path = detector_to_export(detector('dino_gcvit_t_1x')).eval()
    with pytest.raises(UserError, match='32x32 have 22 tokens.* chooses 25.*--size 64 64'):
        path.model.num_queries = 25
        path(torch.randn(1, 3, 32, 32))
