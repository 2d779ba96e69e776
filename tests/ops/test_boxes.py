"""Suppression and overlaps of boxes against their definitions and mmcv."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gcvit_mm.ops import boxes as module
from support import ops_reference as reference


def random_boxes(count, side=50, grid=None):
    """Boxes (N, 4) and different scores (N,); corners on a grid make equal overlaps."""
    corner = torch.rand(count, 2) * side
    boxes = torch.cat([corner, corner + 1 + torch.rand(count, 2) * side], 1)
    if grid:
        boxes = (boxes / grid).round() * grid
    return boxes, torch.randperm(count) / count + 0.001


@pytest.mark.parametrize('threshold', [0.3, 0.5, 0.7])
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('count', [0, 1, 2, 60])
def test_nms(ours, count, offset, threshold):
    """Indices, best first; boxes and scores next to them."""
    boxes, scores = random_boxes(count)
    dets, kept = ours.nms(boxes, scores, threshold, offset)
    order = scores.argsort(descending=True).tolist()
    assert kept.tolist() == reference.nms(boxes.tolist(), order, threshold, offset)
    torch.testing.assert_close(dets, torch.cat([boxes, scores[:, None]], 1)[kept])
    assert kept.dtype == torch.long


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('least', [1, 3, 256])
@pytest.mark.parametrize('classes', [1, 4, 60])
def test_nms_of_boxes_that_lie_apart(classes, least, offset, monkeypatch):
    """Boxes are compared with those that they can overlap; what stays is the same."""
    boxes, scores = random_boxes(300, 90, grid=3)
    boxes[::50, 2] = boxes[::50, 0] - 4  # of negative width
    boxes += 200.0 * torch.randint(0, classes, (300, 1))
    monkeypatch.setattr(module, 'SMALLEST', least)
    sizes = [len(part) for part in module.apart(boxes)]
    assert sum(sizes) == 300 and min(sizes[:-1], default=least) >= least
    assert len(sizes) >= min(classes, 300 // least) // 2
    kept = module.nms(boxes, scores, 0.4, offset)
    order = scores.argsort(descending=True).tolist()
    assert kept.tolist() == reference.nms(boxes.tolist(), order, 0.4, offset)


def test_nms_of_numbers_that_are_none(monkeypatch):
    """A NaN suppresses nothing, wherever boxes are split beside it."""
    monkeypatch.setattr(module, 'SMALLEST', 1)
    boxes, scores = random_boxes(40, 500)
    want = module.nms(boxes, scores, 0.5, 0).tolist()
    boxes, scores = torch.cat([boxes, boxes[:1]]), torch.cat([scores, scores[:1]])
    for i in range(4):
        boxes[40] = boxes[0]
        boxes[40, i] = math.nan
        found = module.nms(boxes, scores, 0.5, 0).tolist()
        assert [k for k in found if k != 40] == want and 40 in found
    assert module.nms(boxes[:0], scores[:0], 0.5, 0).tolist() == []


def test_nms_at_the_threshold(ours):
    """An IoU that is the threshold does not suppress, however the threshold is rounded."""
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 7.0]])
    scores = torch.tensor([0.9, 0.8])
    # 0.7 as float32 is below 0.7
    assert ours.nms(boxes, scores, 0.7)[1].tolist() == [0, 1]
    assert ours.nms(boxes, scores, 0.69)[1].tolist() == [0]
    boxes[1, 3] = 3  # 0.3 as float32 is above 0.3
    assert ours.nms(boxes, scores, 0.3)[1].tolist() == [0, 1]


def test_nms_limits(ours):
    """Scores that are too low, and no more than so many."""
    boxes, scores = random_boxes(40, 500)
    everything = ours.nms(boxes, scores, 0.5)[1]
    few = ours.nms(boxes, scores, 0.5, max_num=5)[1]
    assert few.tolist() == everything[:5].tolist()
    good = ours.nms(boxes, scores, 0.5, score_threshold=0.5)[1]
    assert good.tolist() == [i for i in everything.tolist() if scores[i] > 0.5]


def test_nms_of_odd_boxes(ours):
    """Empty boxes never overlap; huge ones do not overflow into NaN decisions."""
    boxes = torch.tensor([[5, 5, 5, 5], [5, 5, 5, 5], [1e18, 1e18, 2e18, 2e18], [0, 0, 9, 9.0]])
    assert sorted(ours.nms(boxes, torch.rand(4), 0.5)[1].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16, torch.bfloat16])
def test_nms_types(ours, dtype):
    """Every type, and boxes that are a view with other strides."""
    boxes, scores = random_boxes(30, 30, grid=1)
    wide = torch.stack([boxes, -boxes], 2)[..., 0].to(dtype)
    scores = (torch.randperm(30) / 64).to(dtype)
    wanted = ours.nms(boxes, scores.float(), 0.5)[1]
    assert ours.nms(wide, scores, 0.5)[1].tolist() == wanted.tolist()


def test_batched_nms(ours):
    """Classes do not suppress each other; numpy arrays come back as arrays."""
    boxes, scores = random_boxes(80)
    classes = torch.randint(0, 3, (80,))
    dets, kept = ours.batched_nms(boxes, scores, classes, dict(type='nms', iou_threshold=0.4))
    alone = []
    for c in range(3):
        index = (classes == c).nonzero()[:, 0]
        alone += index[ours.nms(boxes[index], scores[index], 0.4)[1]].tolist()
    assert sorted(kept.tolist()) == sorted(alone)
    assert dets[:, 4].tolist() == sorted(dets[:, 4].tolist(), reverse=True)
    array, index = ours.nms(boxes.numpy(), scores.numpy(), 0.4)
    assert isinstance(array, np.ndarray) and isinstance(index, np.ndarray)


@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('count', [0, 1, 40])
def test_soft_nms(ours, count, offset, method):
    """Which boxes stay, and with what scores."""
    boxes, scores = random_boxes(count)
    dets, kept = ours.soft_nms(boxes, scores, 0.3, 0.5, 0.05, method, offset)
    given = (boxes.tolist(), scores.tolist(), 0.3, 0.5, 0.05, method, offset)
    wanted = reference.soft_nms(*given)
    assert kept.tolist() == [i for i, _ in wanted]
    torch.testing.assert_close(dets[:, :4], boxes[kept])
    torch.testing.assert_close(dets[:, 4], torch.tensor([s for _, s in wanted]))


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16, torch.bfloat16])
def test_soft_nms_types(ours, dtype):
    """Every type; the input is not written to."""
    boxes, _ = random_boxes(20, 20, grid=1)
    boxes, scores = boxes.to(dtype), (torch.randperm(20) / 32).to(dtype)
    before = boxes.clone(), scores.clone()
    dets, kept = ours.soft_nms(boxes, scores, 0.3, 0.5, 0.05, 'linear')
    wanted = ours.soft_nms(boxes.float(), scores.float(), 0.3, 0.5, 0.05, 'linear')
    assert dets.dtype == dtype and kept.tolist() == wanted[1].tolist()
    assert torch.equal(boxes, before[0]) and torch.equal(scores, before[1])


@pytest.mark.parametrize('threshold', [0.3, 0.6])
@pytest.mark.parametrize('count', [0, 1, 40])
def test_nms_match(ours, count, threshold):
    """Groups and their order."""
    boxes, scores = random_boxes(count)
    groups = ours.nms_match(torch.cat([boxes, scores[:, None]], 1), threshold)
    order = scores.argsort(descending=True).tolist()
    wanted = reference.nms_match(boxes.tolist(), order, threshold)
    assert [group.tolist() for group in groups] == wanted


def test_nms_match_at_the_threshold(ours):
    """An IoU that is the threshold joins."""
    dets = torch.tensor([[0, 0, 10, 10, 0.9], [0, 0, 10, 5, 0.8]])
    assert [g.tolist() for g in ours.nms_match(dets, 0.5)] == [[0, 1]]
    assert [g.tolist() for g in ours.nms_match(dets, 0.51)] == [[0], [1]]


def test_line_nms(ours):
    """Lanes: what stays, and where the others went."""
    count, points = 30, 72
    lanes = torch.zeros(count, 5 + points)
    lanes[:, 2] = torch.rand(count)
    lanes[:, 4] = torch.randint(0, points, (count,))
    lanes[:, 5:] = torch.randint(0, 4, (count, 1)) * 40 + torch.rand(count, points) * 30
    scores = torch.randperm(count) / count
    order = scores.argsort(descending=True).tolist()
    for most in (count, 3):
        keep, number, parent = ours.line_nms(lanes, scores, 15.0, most)
        kept, parents = reference.line_nms(lanes.tolist(), order, 15.0, most)
        assert keep[:number].tolist() == kept and 1 < len(kept) < count
        assert parent.tolist() == parents
        assert keep.shape == (count,) and keep[number:].sum() == 0
    assert ours.line_nms(lanes[:0], scores[:0], 15.0, 3)[1] == 0


@pytest.mark.parametrize('mode', ['iou', 'iof'])
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('offset', [0, 1])
def test_bbox_overlaps(ours, offset, aligned, mode):
    """Every pair, or box by box."""
    first, second = random_boxes(7)[0], random_boxes(7)[0]
    second = second if aligned else second[:5]
    wanted = [
        [reference.iou(a, b, offset, mode == 'iof') for b in second.tolist()]
        for a in first.tolist()
    ]
    wanted = torch.tensor(wanted)
    result = ours.bbox_overlaps(first, second, mode, aligned, offset)
    torch.testing.assert_close(result, wanted.diagonal() if aligned else wanted)
    for dtype in (torch.float64, torch.bfloat16):
        again = ours.bbox_overlaps(first.to(dtype), second.to(dtype), mode, aligned, offset)
        assert again.dtype == dtype
        torch.testing.assert_close(again.float(), result, rtol=0.1, atol=0.1)
    assert ours.bbox_overlaps(first[:0], second, mode).shape == (0, len(second))


def test_nothing_has_a_gradient(ours):
    """As in mmcv: what stays is chosen without one, and scores keep theirs."""
    boxes, scores = random_boxes(10)
    scores = scores.requires_grad_()
    dets, kept = ours.nms(boxes, scores, 0.5)
    dets[:, 4].sum().backward()
    assert scores.grad.sum() == len(kept) and not kept.requires_grad


box = st.tuples(*[st.integers(0, 12)] * 4).map(
    lambda c: [min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3])]
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(box, min_size=1, max_size=12),
    st.sampled_from([0.25, 0.5, 0.75]),
    st.sampled_from([0, 1]),
)
def test_any_boxes(rows, threshold, offset):
    """Small corners on a grid: many equal, empty and touching boxes, and overlaps at thresholds."""
    boxes = torch.tensor(rows, dtype=torch.float32)
    scores = torch.linspace(1, 0.5, len(rows)).flip(0)
    order = list(range(len(rows)))[::-1]
    kept = module.nms(boxes, scores, threshold, offset).tolist()
    assert kept == reference.nms(rows, order, threshold, offset)
    groups = module.nms_match(torch.cat([boxes, scores[:, None]], 1), threshold)
    assert groups == reference.nms_match(rows, order, threshold)
    assert not any(math.isnan(group[0]) for group in groups)


@pytest.mark.parametrize('tied', [False, True])
def test_is_mmcvs(both, tied):
    """The compiled operators, also where scores and overlaps are equal."""
    from mmcv.ops import bbox_overlaps, nms, nms_match, soft_nms

    boxes, scores = random_boxes(150, grid=2)
    scores = (scores * 12).round() / 12 if tied else scores
    dets = torch.cat([boxes, scores[:, None]], 1)
    for offset in (0, 1):
        theirs, mine = both(lambda offset=offset: nms(boxes, scores, 0.4, offset)[1].tolist())
        assert mine == theirs
        for method in ('naive', 'linear', 'gaussian'):
            given = (boxes, scores, 0.3, 0.5, 0.01, method, offset)
            theirs, mine = both(lambda given=given: soft_nms(*given))
            if method != 'gaussian':  # exp() of the two libraries differs in the last bit
                assert mine[1].tolist() == theirs[1].tolist()
            torch.testing.assert_close(mine[0][:, 4], theirs[0][:, 4], rtol=1e-4, atol=1e-5)
        given = (boxes, boxes.flip(0), 'iou', False, offset)
        theirs, mine = both(lambda given=given: bbox_overlaps(*given))
        torch.testing.assert_close(mine, theirs, equal_nan=True)
    theirs, mine = both(lambda: [group.tolist() for group in nms_match(dets, 0.4)])
    assert mine == theirs
