"""What detectors do with boxes, written so that it can be traced.

mmdet computes the same image by image and asks tensors for their values on the way, which a trace
would take for constants. Here all images of a batch are one list of boxes, each with the number of
its image; nothing depends on how many there are.
"""

import math
from typing import Any, List, NamedTuple, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_RATIO = abs(math.log(16 / 1000))  # mmdet's limit for the change of a side, as a logarithm


class Found(NamedTuple):
    """Boxes of all images of a batch.

    Args:
        boxes: (N, 4) as x1, y1, x2, y2 in pixels.
        scores: (N,).
        labels: (N,), int64.
        images: (N,), int64: the image of each in the batch.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    images: Tensor

    def take(self, index: Tensor) -> 'Found':
        """Those of an index (M,)."""
        return Found(*(part[index] for part in self))

    def rois(self) -> Tensor:
        """Image and box, (N, 5)."""
        return torch.cat([self.images.to(self.boxes)[:, None], self.boxes], 1)


def joined(parts: Sequence[Found]) -> Found:
    """Several as one."""
    return Found(*(torch.cat(part) for part in zip(*parts)))


def decode(coder: Any, boxes: Tensor, deltas: Tensor, height: Any, width: Any) -> Tensor:
    """Move boxes by what a head predicts (R-CNN, arXiv 1311.2524, appendix C).

    Args:
        coder: mmdet's ``DeltaXYWHBBoxCoder``.
        boxes: (N, 4).
        deltas: (N, 4).
        height: Height of the image, which boxes are clipped to.
        width: Its width.

    Returns:
        Boxes (N, 4).
    """
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    size = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, :2] + boxes[:, 2:]) * 0.5 + size * deltas[:, :2]
    half = size * deltas[:, 2:].clamp(-MAX_RATIO, MAX_RATIO).exp() * 0.5
    corners = torch.cat([centre - half, centre + half], 1)
    if not coder.clip_border:
        return corners
    x, y = (corners[:, i::2].clamp(min=0).clamp(max=end) for i, end in enumerate((width, height)))
    return torch.stack([x, y], 2).flatten(1)


def best(scores: Tensor, count: int, least: float) -> List[Tensor]:
    """Choose the best scores of each image.

    Args:
        scores: (B, N), above -1.
        count: Most that are chosen of an image.
        least: Chosen are scores above it, -1 at least.

    Returns:
        Image, place in 0..N-1, and score of each, (M,), best first in each image.
    """
    scores, places = F.pad(scores, (0, count), value=-1.0).topk(count, 1)
    chosen = (scores > least).nonzero()
    images, ranks = chosen[:, 0], chosen[:, 1]
    return [images, places[images, ranks], scores[images, ranks]]


def dense(head: Any, feats: Sequence[Tensor], least: float, height: Any, width: Any) -> List[Found]:
    """Boxes of a dense head with anchors, level by level.

    Args:
        head: mmdet's ``RPNHead`` or ``RetinaHead``.
        feats: Maps (B, C, h, w) of the neck.
        least: Scores above it count, see :func:`best`.
        height: Height of the image.
        width: Its width.

    Returns:
        The best ``nms_pre`` of each level.
    """
    found = []
    logits, deltas = head(feats)
    priors = head.prior_generator.grid_priors(
        [level.shape[2:] for level in logits], logits[0].dtype, logits[0].device
    )
    for level, moves, anchors in zip(logits, deltas, priors):
        level = level.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, head.cls_out_channels))
        level = level.sigmoid() if head.use_sigmoid_cls else level.softmax(-1)[..., :-1]
        classes = level.shape[2]
        images, places, scores = best(level.flatten(1), head.test_cfg.nms_pre, least)
        index, labels = places // classes, places % classes
        moves = moves.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4))[images, index]
        boxes = decode(head.bbox_coder, anchors[index], moves, height, width)
        found.append(Found(boxes, scores, labels, images))
    return found


def without_small(found: Found, cfg: Any) -> Found:
    """Leave out boxes with a side of ``min_bbox_size`` of a test_cfg or less, if it has one."""
    least = cfg.get('min_bbox_size', -1)
    if least < 0:
        return found
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    return found.take((sides > least).all(1).nonzero()[:, 0])


def suppress(found: Found, groups: Tensor, cfg: Any, batch: Any) -> Found:
    """Greedy non-maximum suppression, in each group of each image by itself.

    Args:
        found: The boxes.
        groups: Group of each, (N,).
        cfg: A test_cfg: ``nms.iou_threshold``, and ``max_per_img``, the most that stay.
        batch: Images of the batch.

    Returns:
        What stays, best first.
    """
    from torchvision.ops import nms

    # As mmcv does it: groups are moved apart, along both axes; images, which mmcv does not have
    # here, along one of them, so that single images give the same numbers.
    step = F.pad(found.boxes.flatten(), (0, 1)).max() + 1
    moved = torch.stack([groups, groups + found.images], 1).to(found.boxes) * step
    kept = found.take(
        nms(found.boxes + moved.repeat(1, 2), found.scores, float(cfg.nms.iou_threshold))
    )
    if cfg.max_per_img <= 0:
        return kept
    same = (kept.images[:, None] == torch.arange(batch, device=kept.images.device)).long()
    rank = (same.cumsum(0) * same).sum(1)
    return kept.take((rank <= cfg.max_per_img).nonzero()[:, 0])


def roi_feats(extractor: Any, feats: Sequence[Tensor], rois: Tensor) -> Tensor:
    """Cut boxes out of the maps, each out of the one that its size asks for (FPN, equation 1).

    Args:
        extractor: mmdet's ``SingleRoIExtractor``.
        feats: Maps (B, C, h, w).
        rois: Image and box, (N, 5).

    Returns:
        Tensor (N, C, size, size).
    """
    from torchvision.ops import roi_align

    scale = (rois[:, 3:] - rois[:, 1:3]).prod(1).sqrt() / extractor.finest_scale + 1e-6
    level = torch.stack([scale >= 2**i for i in range(1, len(feats))] or [scale < 0]).sum(0)
    parts, places = [], []
    for i, (layer, x) in enumerate(zip(extractor.roi_layers, feats)):
        places.append((level == i).nonzero()[:, 0])
        parts.append(
            roi_align(
                x,
                rois[places[-1]],
                layer.output_size,
                layer.spatial_scale,
                layer.sampling_ratio,
                layer.aligned,
            )
        )
    return torch.cat(parts)[torch.cat(places).argsort()]
