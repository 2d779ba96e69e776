"""Operators on boxes: suppression of overlapping ones, and overlaps."""

from typing import Iterator, List

import numpy as np
import torch
from torch import Tensor

SMALLEST = 256  # part of boxes that is worth a call


def widened(x: Tensor) -> Tensor:
    """float32 for 16-bit types, others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy suppression: a box goes if its IoU with a better one that stays is above a threshold.

    Args:
        boxes: (N, 4) as (x1, y1, x2, y2).
        scores: (N,).
        iou_threshold: As float32, as in mmcv.
        offset: Added to widths and heights, 0 or 1.

    Returns:
        Indices of those that stay, best first.
    """
    from torchvision.ops import nms as suppress

    boxes = widened(boxes.detach())
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # equal scores come in the order of the sort that mmcv calls, which is not stable
    order = scores.detach().sort(0, descending=True)[1]
    boxes, threshold = boxes[order], float(np.float32(iou_threshold))
    rank = torch.arange(len(order), 0, -1, dtype=boxes.dtype, device=boxes.device)
    if boxes.device.type != 'cpu':
        return order[suppress(boxes, rank, threshold)]
    kept = torch.zeros(len(order), dtype=torch.bool)
    for part in apart(boxes):
        kept[part[suppress(boxes[part], rank[part], threshold)]] = True
    return order[kept]


def apart(boxes: Tensor) -> Iterator[Tensor]:
    """Split boxes (N, 4) where no box of one part overlaps one of another, by their x coordinates.

    Suppression compares each box with all others: levels and classes, which mmcv shifts away from
    each other (below 10000 boxes), cost less one by one. Yields ascending indices.
    """
    left, order = boxes[:, 0].sort()
    reach = boxes[order, 2].cummax(0)[0]  # NaN from the first one on: no more parts
    start = 0
    for end in (1 + (left[1:] >= reach[:-1]).nonzero().flatten()).tolist():
        if end - start >= SMALLEST:
            yield order[start:end].sort()[0]
            start = end
    yield order[start:].sort()[0]


def overlaps(box: np.ndarray, others: np.ndarray, offset: int = 0) -> np.ndarray:
    """IoU of a box (4,) with others (4, N); NaN for two empty ones at one place."""
    corner = np.minimum(box[2:, None], others[2:]) - np.maximum(box[:2, None], others[:2])
    shared = np.maximum(corner + others.dtype.type(offset), 0).prod(0)
    sizes = (others[2:] - others[:2] + others.dtype.type(offset)).prod(0)
    size = (box[2:] - box[:2] + others.dtype.type(offset)).prod()
    with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
        return shared / (size + sizes - shared)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (arXiv 1704.04503): overlapping boxes lose score, and go below ``min_score``.

    Args:
        boxes: (N, 4).
        scores: (N,).
        dets: (N, 5), written: boxes and scores of those that stay, best first.
        iou_threshold: From here on 'naive' and 'linear' take score away.
        sigma: Of 'gaussian'.
        min_score: A box below goes.
        method: 0 naive (all of the score), 1 linear, 2 gaussian.
        offset: Added to widths and heights, 0 or 1.

    Returns:
        Indices of those that stay. Equal scores come in mmcv's order: what goes is replaced by the
        last box.
    """
    x = widened(boxes.detach()).cpu().numpy().T.copy()
    real = x.dtype.type
    score = widened(scores.detach()).cpu().numpy().astype(real)
    index = np.arange(len(score))
    threshold, sigma, least = real(iou_threshold), real(sigma), real(min_score)
    i, n = 0, len(score)
    while i < n:
        best = i + int(score[i:n].argmax())
        for array in (x.T, score, index):
            array[[i, best]] = array[[best, i]]
        i += 1
        if i >= n:
            break
        iou = overlaps(x[:, i - 1], x[:, i:n], offset)
        if method == 2:
            weight = np.exp(-(iou * iou) / sigma)
        else:
            weight = np.where(iou >= threshold, 0 if method == 0 else 1 - iou, real(1))
        score[i:n] *= weight
        gone = score[i:n] < least
        stay = int((~gone).sum())
        holes = np.flatnonzero(gone[:stay])
        fill = stay + np.flatnonzero(~gone[stay:])[::-1]
        for array in (x.T, score, index):
            array[i + holes] = array[i + fill]
        n = i + stay
    dets[:n] = torch.from_numpy(np.concatenate([x[:, :n].T, score[:n, None]], 1)).to(dets)
    return torch.from_numpy(index[:n].copy()).to(boxes.device)


def nms_match(dets: Tensor, iou_threshold: float) -> List[List[int]]:
    """Group every box with the one that suppresses it.

    Args:
        dets: (N, 5), boxes and scores.
        iou_threshold: A box joins the group of a better one from here on.

    Returns:
        Groups of indices, best first, the suppressing box at the head of each.
    """
    order = dets[:, 4].detach().contiguous().sort(0, descending=True)[1].cpu().numpy()
    x = widened(dets.detach()).cpu().numpy()[order, :4].T
    threshold, groups = x.dtype.type(iou_threshold), []
    while len(order):
        joins = overlaps(x[:, 0], x[:, 1:]) >= threshold
        groups.append([int(order[0]), *order[1:][joins].tolist()])
        order, x = order[1:][~joins], x[:, 1:][:, ~joins]
    return groups


def line_nms_forward(boxes: Tensor, scores: Tensor, thresh: float, top_k: int) -> List[Tensor]:
    """Greedy suppression of lanes (CLRNet, arXiv 2203.10350) by their mean horizontal distance.

    Args:
        boxes: (N, 5 + P): start at 2 (a share of the P - 1 strips), length in strips at 4, then x.
        scores: (N,).
        thresh: Lanes nearer than this, over the rows they share, are one.
        top_k: Most lanes that stay.

    Returns:
        Indices of lanes that stay, best first, padded with 0 to (N,); their number; for every lane
        the number, from 1, of the one it went to, 0 for none.
    """
    order = scores.detach().sort(0, descending=True)[1]
    lanes = widened(boxes.detach())[order]
    count, points = len(lanes), lanes.shape[1] - 5
    start = (lanes[:, 2] * (points - 1) + 0.5).trunc()
    # a lane of no length ends before it starts
    end = start + lanes[:, 4].trunc() - 1
    rows = torch.arange(points, device=lanes.device)
    parent, keep = order.new_zeros(count), order.new_zeros(count)
    alive, kept = torch.ones(count, dtype=torch.bool, device=lanes.device), 0
    for i in range(count):
        if not alive[i] or kept == top_k:
            continue
        first = torch.maximum(start[i], start)
        last = torch.minimum(torch.minimum(end[i], end), end.new_tensor(points - 1))
        shared = (rows >= first[:, None]) & (rows <= last[:, None])
        distance = ((lanes[:, 5:] - lanes[i, 5:]).abs() * shared).sum(1)
        near = (last >= first) & (first >= 0) & (distance < thresh * (last - first + 1))
        near[:i] = False
        near[i] = True
        keep[kept], kept = order[i], kept + 1
        parent[order[near]] = kept
        alive &= ~near
    return [keep, order.new_tensor(kept), parent]


def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int
) -> None:
    """Overlaps of boxes.

    Args:
        bboxes1: (M, 4).
        bboxes2: (N, 4).
        ious: (M, N), or (M,) if aligned; written.
        mode: 0 over the union, 1 over the area of the first box.
        aligned: Compare box by box.
        offset: Added to widths and heights, 0 or 1.
    """
    first, second = widened(bboxes1), widened(bboxes2)
    sizes = [(x[:, 2:] - x[:, :2] + offset).prod(1) for x in (first, second)]
    if not aligned:
        first, sizes[0] = first[:, None], sizes[0][:, None]
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    shared = (high - low + offset).clamp(min=0).prod(-1)
    ious.copy_(shared / (sizes[0] if mode else sizes[0] + sizes[1] - shared))
