"""Detectors of mmdet from an image to boxes, written so that they can be traced.

Parts with weights are those of the model; what mmdet does around them is written anew from its
definition, and gives what its ``predict`` gives.
"""

from typing import Any, List, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..layers import pad_image
from .boxes import Found, decode, dense, joined, roi_feats, suppress, without_small


class Detector(nn.Module):
    """A detector from an image to boxes.

    Args:
        model: mmdet's detector.
    """

    outputs: Tuple[str, ...] = ('boxes', 'scores', 'labels', 'images')
    opset = 14  # the least that has what is needed; torch writes attention from there on

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.divisor = model.data_preprocessor.pad_size_divisor

    def feats(self, image: Tensor) -> Tuple[Tensor, ...]:
        """Maps of the neck for images (B, C, H, W), padded as in testing."""
        return self.model.extract_feat(pad_image(image, self.divisor))


class RetinaNet(Detector):
    """RetinaNet (arXiv 1708.02002)."""

    def forward(self, image: Tensor) -> Tuple[Tensor, ...]:
        """Images (B, C, H, W), normalised -> boxes (N, 4), scores, labels and images (N,)."""
        head = self.model.bbox_head
        cfg = head.test_cfg
        found = joined(dense(head, self.feats(image), cfg.get('score_thr', 0), *image.shape[2:]))
        found = without_small(found, cfg)
        return tuple(suppress(found, found.labels, cfg, image.shape[0]))


class TwoStage(Detector):
    """Faster, Mask and Cascade (Mask) R-CNN.

    Masks are probabilities in a grid over each box, of its class, not yet pasted into the image.
    """

    opset = 16  # RoiAlign with aligned pixels

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        if model.roi_head.with_mask:
            self.outputs = (*self.outputs, 'masks')

    def forward(self, image: Tensor) -> Tuple[Tensor, ...]:
        """Images (B, C, H, W), normalised -> boxes (N, 4), scores, labels and images (N,), and
        masks (N, h, w) if the model has them."""
        feats, batch, size = self.feats(image), image.shape[0], image.shape[2:]
        roi_head = self.model.roi_head
        found = self.boxes(feats, self.proposals(feats, batch, size), batch, size)
        if not roi_head.with_mask:
            return tuple(found)
        rois = found.rois()
        stages = list(zip(stages_of(roi_head.mask_roi_extractor), stages_of(roi_head.mask_head)))
        masks = [self.masks(stage, feats, rois, found.labels) for stage in stages]
        return (*found, torch.stack(masks).mean(0))

    def proposals(self, feats: Sequence[Tensor], batch: Any, size: Sequence[Any]) -> Tensor:
        """What the RPN (arXiv 1506.01497) proposes: image and box, (N, 5)."""
        head = self.model.rpn_head
        # groups are levels; there is one class
        levels = [
            found._replace(labels=torch.full_like(found.labels, i))
            for i, found in enumerate(dense(head, feats, -1, *size))
        ]
        found = without_small(joined(levels), head.test_cfg)
        return suppress(found, found.labels, head.test_cfg, batch).rois()

    def boxes(
        self, feats: Sequence[Tensor], rois: Tensor, batch: Any, size: Sequence[Any]
    ) -> Found:
        """Boxes of classes for proposals (N, 5), refined stage by stage."""
        roi_head = self.model.roi_head
        stages = list(zip(stages_of(roi_head.bbox_roi_extractor), stages_of(roi_head.bbox_head)))
        logits: List[Tensor] = []
        for i, (extractor, head) in enumerate(stages):
            scores, deltas = head(roi_feats(extractor, feats[: extractor.num_inputs], rois))
            logits.append(scores)
            if i + 1 < len(stages):  # the next one looks at boxes that this one has moved
                every = torch.arange(rois.shape[0], device=rois.device)
                moved = self.move(head, rois, deltas, every, scores[:, :-1].argmax(1), size)
                rois = torch.cat([rois[:, :1], moved], 1)
        probabilities = torch.stack(logits).mean(0).softmax(1)[:, :-1]
        cfg = roi_head.test_cfg
        chosen = (probabilities > cfg.score_thr).nonzero()
        index, labels = chosen[:, 0], chosen[:, 1]
        found = Found(
            self.move(head, rois, deltas, index, labels, size),
            probabilities[index, labels],
            labels,
            rois[index, 0].long(),
        )
        return suppress(found, labels, cfg, batch)

    @staticmethod
    def move(
        head: Any, rois: Tensor, deltas: Tensor, index: Tensor, labels: Tensor, size: Sequence[Any]
    ) -> Tensor:
        """Move the proposals of an index as a head predicts for their classes."""
        if head.reg_class_agnostic:
            return decode(head.bbox_coder, rois[index, 1:], deltas[index], *size)
        deltas = deltas.unflatten(1, (head.num_classes, 4))  # not -1: there may be no proposals
        return decode(head.bbox_coder, rois[index, 1:], deltas[index, labels], *size)

    @staticmethod
    def masks(
        stage: Tuple[Any, Any], feats: Sequence[Tensor], rois: Tensor, labels: Tensor
    ) -> Tensor:
        """Probabilities (N, h, w) of a mask head for boxes (N, 5) of classes."""
        extractor, head = stage
        logits = head(roi_feats(extractor, feats[: extractor.num_inputs], rois))
        labels = torch.zeros_like(labels) if head.class_agnostic else labels
        return logits[torch.arange(labels.shape[0], device=labels.device), labels].sigmoid()


def stages_of(part: Any) -> List[Any]:
    """Parts of a cascade, or the one that there is."""
    return list(part) if isinstance(part, nn.ModuleList) else [part]
