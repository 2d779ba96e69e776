"""Which differences between two sets of boxes are found, and which are let pass."""

import numpy as np
import pytest
import torch

from gcvit_mm import UserError
from gcvit_mm.deploy.checking import Agreement, box_ious, compare, drawn_picture, mask_iou, ranked

FACTS = dict(score_thr=0.05, max_per_img=100, iou_thr=0.5)


def results(*rows, masks=None):
    """Boxes of a picture, each as label, score and corners."""
    table = np.array([row[2:] for row in rows], np.float32).reshape(-1, 4)
    found = dict(
        boxes=table,
        scores=np.array([row[1] for row in rows], np.float32),
        labels=np.array([row[0] for row in rows], int),
    )
    return found if masks is None else dict(found, masks=masks)


A = (3, 0.9, 10, 10, 50, 40)
B = (1, 0.4, 0, 0, 20, 20)


def test_the_same_boxes():
    """In any order, within half a pixel and a thousandth of score; none at all, too."""
    moved = (3, 0.9005, 10.4, 10, 50, 39.6)
    agreement = compare(results(A, B), results(B, moved), FACTS)
    assert agreement.boxes == 2 and agreement.iou == 1
    assert agreement.pixels == pytest.approx(0.4, abs=1e-4)
    assert agreement.score == pytest.approx(0.0005, abs=1e-5)
    assert compare(results(), results(), FACTS) == Agreement()


@pytest.mark.parametrize(
    'other',
    [
        (2, 0.9, 10, 10, 50, 40),  # another class
        (3, 0.902, 10, 10, 50, 40),
        (3, 0.9, 10, 10, 50.6, 40),
    ],
)
def test_a_box_of_one_alone(other):
    """Missing, different, or found twice."""
    with pytest.raises(UserError, match='torch finds class 3 with score 0.9000 at 10.0,10.0,50.0'):
        compare(results(B, A), results(B, other), FACTS)
    with pytest.raises(UserError, match='torch finds class 3 .*, and it alone'):
        compare(results(A), results(), FACTS)
    with pytest.raises(UserError, match='the file finds class 3 .*, and it alone'):
        compare(results(A), results(A, A), FACTS)


def test_at_the_threshold():
    """What scores hardly enough may be missing on either side, more may not."""
    low = (1, 0.0508, 0, 0, 20, 20)
    assert compare(results(A, low), results(A), FACTS).boxes == 1
    assert compare(results(A), results(A, low), FACTS).boxes == 1
    with pytest.raises(UserError, match='torch finds class 1 with score 0.0520'):
        compare(results(A, (1, 0.052, *low[2:])), results(A), FACTS)


def test_where_no_more_fit():
    """The last places go to boxes of nearly one score."""
    facts = dict(FACTS, max_per_img=2)
    last = (1, 0.4003, 60, 60, 80, 80)
    assert compare(results(A, B), results(A, last), facts).boxes == 1
    with pytest.raises(UserError, match='alone'):
        compare(results(A, B), results(A, last), FACTS)


def test_at_the_limit_of_suppression():
    """A box whose overlap with a better one is 0.5 may be kept or not."""
    half = (3, 0.6, 10, 10, 50, 25)
    assert box_ious(np.array(half[2:]), np.array([A[2:], B[2:]])) == pytest.approx(
        [0.5, 0.1111], abs=1e-3
    )
    agreement = compare(results(A, half), results(A), FACTS)
    assert (agreement.boxes, agreement.undecided) == (1, 1)
    assert compare(results(A), results(A, half), FACTS).undecided == 1
    for facts in (dict(FACTS, iou_thr=0.6), dict(FACTS, iou_thr=None)):
        with pytest.raises(UserError, match='alone'):
            compare(results(A, half), results(A), facts)
    with pytest.raises(UserError, match='alone'):  # the better one is what is missing
        compare(results(A, half), results(half), FACTS)


def test_masks():
    """IoU 0.99, or a single pixel."""
    mask = np.zeros((1, 40, 60), bool)
    mask[0, 5:30, 10:50] = True
    almost, other = mask.copy(), mask.copy()
    almost[0, 5, 10:15] = False
    other[0, 5, 10:25] = False
    same = compare(results(A, masks=mask), results(A, masks=almost), FACTS)
    assert same.iou == pytest.approx(0.995)
    with pytest.raises(UserError, match='the mask of class 3 .* has IoU 0.985 with that of torch'):
        compare(results(A, masks=mask), results(A, masks=other), FACTS)
    assert mask_iou(np.eye(2, dtype=bool), np.ones((2, 2), bool)) == 0.5
    assert mask_iou(np.zeros((2, 2), bool), np.array([[0, 1], [0, 0]], bool)) == 1


def test_drawn_pictures():
    """Of any size, and others for other seeds."""
    picture = drawn_picture(33, 250)
    assert picture.shape == (33, 250, 3) and picture.dtype == np.uint8 and picture.std() > 20
    assert not np.array_equal(picture, drawn_picture(33, 250, 1))
    assert drawn_picture(1, 1).shape == (1, 1, 3)


def test_ranks_of_dino():
    """Those of a file are taken where they are right but for rounding, and nowhere else."""
    scores = torch.tensor([[0.1, 0.5, 0.50001, 0.9, 0.2]])
    with ranked(np.array([[3, 1, 2]])):
        assert torch.topk(scores, k=3, dim=1)[1].tolist() == [[3, 1, 2]]
        assert torch.topk(scores, 2, 1)[1].tolist() == [[3, 2]]
    with ranked(np.array([[3, 2, 4]])):
        assert torch.topk(scores, 3, 1)[1].tolist() == [[3, 2, 1]]
    assert torch.topk(scores, 3, 1)[1].tolist() == [[3, 2, 1]]
