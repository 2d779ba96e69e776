"""Test-time augmentation of detectors with masks. This module needs mmdet: configs name it."""

from typing import Any, List, Tuple

import torch
from mmdet.models.test_time_augs import DetTTAModel
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi, bbox_flip
from torch import Tensor, nn

from ..errors import UserError

# Those whose mask heads take the features of a box and nothing else.
ROI_HEADS = ('StandardRoIHead', 'CascadeRoIHead')
FLIPPED = {'horizontal': [-1], 'vertical': [-2], 'diagonal': [-2, -1]}


class MaskTTAModel(DetTTAModel):
    """mmdet's ``DetTTAModel``, which merges boxes, and masks at the boxes that it leaves.

    They are predicted on every augmented image, turned back and averaged as probabilities in the
    box, as mmdet 2 and Detectron test Mask R-CNN; those of a cascade are the mean of its stages,
    as in its plain test. Detectors without masks are tested as by ``DetTTAModel``. The maps of
    all augmented images of a batch are kept until its boxes are merged.

    Args:
        kwargs: Those of :class:`mmdet.models.DetTTAModel`.

    Raises:
        UserError: If the masks are of another kind than those of Mask R-CNN and its cascade.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        roi_head: Any = getattr(self.module, 'roi_head', None)
        known = type(roi_head).__name__ in ROI_HEADS and not roi_head.with_shared_head
        if self.module.with_mask and not known:
            raise UserError(
                f'--tta: how to merge masks of a {type(self.module).__name__} with '
                f'{type(roi_head).__name__} is not known, only of {" and ".join(ROI_HEADS)}: '
                'leave it out'
            )

    def test_step(self, data: dict) -> List[DetDataSample]:
        """Test a batch.

        Args:
            data: ``inputs`` and ``data_samples``, lists of one list for each augmentation.

        Returns:
            Merged predictions in the original images, one for each.
        """
        if not self.module.with_mask:
            return super().test_step(data)
        views = [self._predict_boxes(*view) for view in zip(data['inputs'], data['data_samples'])]
        samples = self.merge_preds(list(zip(*(samples for _, samples in views))))
        boxes = [sample.pred_instances.bboxes for sample in samples]
        masks: Any = [None] * len(boxes)
        if any(map(len, boxes)):
            means = torch.stack([self._predict_masks(*view, boxes) for view in views]).mean(0)
            masks = means.split([len(each) for each in boxes])
        roi_head = self.module.roi_head
        results = _as_list(roi_head.mask_head)[-1].predict_by_feat(
            masks,
            [sample.pred_instances for sample in samples],
            [dict(ori_shape=sample.ori_shape, scale_factor=(1.0, 1.0)) for sample in samples],
            roi_head.test_cfg,
            rescale=True,
            activate_map=True,
        )
        return self.module.add_pred_to_datasample(samples, results)

    def _predict_boxes(
        self, inputs: Any, samples: Any
    ) -> Tuple[Tuple[Tensor, ...], List[DetDataSample]]:
        """Maps of augmented images, and their boxes in the original images."""
        batch = self.module.data_preprocessor(dict(inputs=inputs, data_samples=samples), False)
        samples = batch['data_samples']
        feats = self.module.extract_feat(batch['inputs'])
        proposals = self.module.rpn_head.predict(feats, samples, rescale=False)
        roi_head, metas = self.module.roi_head, [sample.metainfo for sample in samples]
        results = roi_head.predict_bbox(feats, metas, proposals, roi_head.test_cfg)
        for found, meta in zip(results, metas):
            found.bboxes = found.bboxes / _scale(found.bboxes, meta)
        return feats, self.module.add_pred_to_datasample(samples, results)

    def _predict_masks(
        self, feats: Tuple[Tensor, ...], samples: List[DetDataSample], boxes: List[Tensor]
    ) -> Tensor:
        """Probabilities (boxes of all images, classes, h, w) that augmented images give.

        Args:
            feats: Maps of the augmented images.
            samples: Their metainfo.
            boxes: Boxes in the original images.
        """
        roi_head, metas = self.module.roi_head, [sample.metainfo for sample in samples]
        placed = [
            (bbox_flip(each, meta['ori_shape'], meta['flip_direction']) if meta['flip'] else each)
            * _scale(each, meta)
            for each, meta in zip(boxes, metas)
        ]
        rois = bbox2roi(placed)
        parts = zip(_as_list(roi_head.mask_roi_extractor), _as_list(roi_head.mask_head))
        stages = [head(pool(feats[: pool.num_inputs], rois)).sigmoid() for pool, head in parts]
        maps = torch.stack(stages).mean(0).split([len(each) for each in boxes])
        return torch.cat(
            [
                each.flip(FLIPPED[meta['flip_direction']]) if meta['flip'] else each
                for each, meta in zip(maps, metas)
            ]
        )


def _scale(boxes: Tensor, meta: dict) -> Tensor:
    """Factors (1, 4) that boxes of an original image have in the augmented one."""
    return boxes.new_tensor(meta['scale_factor']).repeat((1, 2))


def _as_list(part: Any) -> Any:
    return part if isinstance(part, nn.ModuleList) else [part]
