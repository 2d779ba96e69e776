"""Which detectors of mmdet have a counterpart that can be traced."""

from typing import Any, List, Sequence, Tuple

from ..errors import UserError
from .detectors import Detector, RetinaNet, TwoStage, stages_of
from .dino import DINO

BOX_HEADS = ('BBoxHead', 'ConvFCBBoxHead', 'Shared2FCBBoxHead', 'Shared4Conv1FCBBoxHead')
ANCHORS = {'prior_generator': ('AnchorGenerator',), 'bbox_coder': ('DeltaXYWHBBoxCoder',)}
DETECTORS = ('RetinaNet', 'FasterRCNN', 'MaskRCNN', 'CascadeRCNN', 'DINO')


def detector_to_export(model: Any) -> Detector:
    """Find the counterpart of a detector of mmdet.

    Raises:
        UserError: If it has none; the message names the part.
    """
    name = type(model).__name__
    if name == 'RetinaNet':
        check_part('model.bbox_head', model.bbox_head, ('RetinaHead',), **ANCHORS)
        check_nms('model.test_cfg', model.bbox_head.test_cfg)
        return RetinaNet(model)
    if name in ('FasterRCNN', 'MaskRCNN', 'CascadeRCNN'):
        check_two_stage(model)
        return TwoStage(model)
    if name == 'DINO':
        check_dino(model)
        return DINO(model)
    raise no_counterpart('model', name, DETECTORS)


def check_two_stage(model: Any) -> None:
    """Check the parts of a two-stage detector.

    Raises:
        UserError: If one has no counterpart here.
    """
    roi_head = model.roi_head
    check_part('model.rpn_head', model.rpn_head, ('RPNHead',), **ANCHORS)
    check_nms('model.test_cfg.rpn', model.rpn_head.test_cfg)
    check_nms('model.test_cfg.rcnn', roi_head.test_cfg)
    check_part('model.roi_head', roi_head, ('StandardRoIHead', 'CascadeRoIHead'))
    if roi_head.with_shared_head:
        raise no_counterpart('model.roi_head.shared_head', type(roi_head.shared_head).__name__, ())
    parts: List[Tuple[str, Sequence[str], dict]] = [
        ('bbox_head', BOX_HEADS, {'bbox_coder': ANCHORS['bbox_coder']})
    ]
    parts += [('mask_head', ('FCNMaskHead',), {})] if roi_head.with_mask else []
    for key, known, inner in parts:
        for part in stages_of(getattr(roi_head, key)):
            check_part(f'model.roi_head.{key}', part, known, **inner)
        key = key.replace('head', 'roi_extractor')
        for part in stages_of(getattr(roi_head, key)):
            check_part(f'model.roi_head.{key}', part, ('SingleRoIExtractor',))
            for layer in part.roi_layers:
                check_part(f'model.roi_head.{key}.roi_layer', layer, ('RoIAlign',))


def check_dino(model: Any) -> None:
    """Check the parts of a DINO.

    Raises:
        UserError: If one has no counterpart here.
    """
    check_part('model.bbox_head', model.bbox_head, ('DINOHead',))
    divisor = model.data_preprocessor.pad_size_divisor
    if divisor != 1:  # padding would have to be masked
        raise no_counterpart('model.data_preprocessor.pad_size_divisor', str(divisor), ('1',))
    if not model.bbox_head.loss_cls.use_sigmoid:
        raise no_counterpart('model.bbox_head.loss_cls', 'a softmax', ('use_sigmoid=True',))


def check_part(path: str, part: Any, known: Sequence[str], **inner: Sequence[str]) -> None:
    """Check the type of a part, and of what it holds.

    Raises:
        UserError: If one has no counterpart here.
    """
    if type(part).__name__ not in known:
        raise no_counterpart(path, type(part).__name__, known)
    for key, names in inner.items():
        check_part(f'{path}.{key}', getattr(part, key), names)


def check_nms(path: str, cfg: Any) -> None:
    """Check how boxes are suppressed.

    Raises:
        UserError: If it has no counterpart here.
    """
    nms = dict(cfg.nms)
    if nms.pop('type', 'nms') != 'nms' or set(nms) - {'iou_threshold', 'split_thr'}:
        raise no_counterpart(f'{path}.nms', str(dict(cfg.nms)), ("dict(type='nms', iou_threshold",))


def no_counterpart(path: str, name: str, known: Sequence[str]) -> UserError:
    """The error for a part that cannot be exported."""
    instead = f' (known: {", ".join(known)})' if known else ''
    return UserError(
        f'{path} is {name}, which has no counterpart for the export{instead}: export the backbone '
        'with --backbone'
    )
