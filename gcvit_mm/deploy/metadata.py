"""What an exported file says of itself, for those who use it without its config."""

import json
import os.path as osp
from typing import Any, Callable, Dict, List, Optional, Tuple

from mmengine.config import Config
from mmengine.registry import DATASETS

from ..checkpoints import gcvit, scalablevit
from ..errors import UserError
from ..version import __version__
from .detectors import stages_of
from .pictures import PILLOW
from .predictor import FORMAT

PACK = {'detector': 'PackDetInputs', 'segmentor': 'PackSegInputs', 'classifier': 'PackInputs'}
# Steps of a test pipeline that leave the picture as it is.
NO_CHANGE = ('LoadImageFromFile', 'LoadAnnotations', *PACK.values())
LICENCES = {'GCViT': gcvit.LAYOUTS[0].licence, 'ScalableViT': scalablevit.LAYOUTS[0].licence}
# COCO's ids of categories reach to 90; these are not in use.
COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_IDS = [i for i in range(1, 91) if i not in COCO_GAPS]


class Unknown(ValueError):
    """A step that this module cannot describe."""


def pipeline_steps(pipeline: List[dict]) -> List[Dict[str, Any]]:
    """Describe how a test pipeline resizes pictures.

    Args:
        pipeline: Its steps, as configs have them.

    Returns:
        For each step that changes the picture a dict of its ``type`` and arguments: 'Resize' with
        ``scale`` ([width, height], or None), ``scale_factor`` ([of the width, of the height], or
        None) and ``keep_ratio``; 'ResizeEdge' with ``scale`` and ``edge``; 'ResizeToMultiple' with
        ``divisor``; these with ``backend`` ('cv2' or 'pillow') and ``interpolation``; 'CenterCrop'
        with ``crop_size`` ([width, height]).

    Raises:
        Unknown: If a step cannot be described; the message names it.
    """
    return [described(step) for step in pipeline if step['type'] not in NO_CHANGE]


def described(step: dict) -> Dict[str, Any]:
    """Describe a step, see :func:`pipeline_steps`."""
    given = {key: value for key, value in step.items() if key not in ('type', '_scope_')}
    told = ', '.join(f'{key}={value!r}' for key, value in given.items())
    unknown = Unknown(f'{step["type"]}({told}) of the test pipeline')
    found: Dict[str, Any] = dict(type=step['type'])
    if found['type'] == 'Resize':
        given.pop('clip_object_border', None)
        found.update(
            scale=_pair(given.pop('scale', None)),
            scale_factor=_pair(given.pop('scale_factor', None)),
            keep_ratio=given.pop('keep_ratio', False),
        )
    elif found['type'] == 'ResizeEdge':
        found.update(scale=given.pop('scale'), edge=given.pop('edge', 'short'))
    elif found['type'] == 'ResizeToMultiple':
        found.update(divisor=given.pop('size_divisor', 32))
    elif found['type'] == 'CenterCrop':
        found.update(crop_size=_pair(given.pop('crop_size')))
    else:
        raise unknown
    if found['type'] != 'CenterCrop':
        found.update(
            backend=given.pop('backend', 'cv2'),
            interpolation=given.pop('interpolation', None) or 'bilinear',
        )
        pillow = found['backend'] == 'pillow'
        if found['interpolation'] not in (PILLOW if pillow else ('bilinear',)):
            raise unknown
    if given:
        raise unknown
    return found


def pipeline_of(facts: Dict[str, Any], path: str) -> List[dict]:
    """The test pipeline that a file describes, see :func:`pipeline_steps`.

    Args:
        facts: What the file says.
        path: Its path, for messages.

    Raises:
        UserError: If it does not describe one.
    """
    if facts['prepare'] is None:
        raise UserError(f'{path} does not say how pictures are resized: {facts["unknown"]}')
    steps = []
    for step in facts['prepare']:
        given = {k: tuple(v) if isinstance(v, list) else v for k, v in step.items()}
        if step['type'] == 'ResizeToMultiple':
            given = dict(type=step['type'], size_divisor=given['divisor'])
        steps.append(given)
    return [dict(type='LoadImageFromFile'), *steps, dict(type=PACK[facts['task']])]


def _pair(value: Any) -> Optional[list]:
    """A number or two as a list of two."""
    if value is None:
        return None
    return list(value) if isinstance(value, (list, tuple)) else [value, value]


def describe(
    cfg: Config,
    kind: str,
    whole: Any,
    stored: dict,
    size: Optional[Tuple[int, int]] = None,
    uint8: bool = False,
    licence: Optional[str] = None,
) -> Dict[str, Any]:
    """Collect what a file is to say of itself.

    Args:
        cfg: Config of the model.
        kind: 'detector', 'segmentor', 'classifier' or 'backbone'.
        whole: The whole model.
        stored: ``meta`` of its checkpoint.
        size: Height and width that the graph is tied to, None for any.
        uint8: Whether it takes bytes.
        licence: That of the weights; by default what is known of those that the config starts from.

    Returns:
        Values for JSON; ``docs/export.md`` lists them.

    Raises:
        UserError: If the data set has other classes than the model.
    """
    found: Dict[str, Any] = dict(
        gcvit_mm=__version__,
        format=FORMAT,
        task=kind,
        model=type(whole).__name__,
        config=osp.basename(cfg.filename or ''),
        licence=licence or licence_of(cfg),
        input='uint8' if uint8 else 'float32',
        channels=whole.backbone.in_channels,
        size=list(size) if size else None,
        **normalising(cfg),
    )
    if kind == 'backbone':
        return dict(found, classes=[])
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    meta = dataset_meta(cfg, stored)
    found.update(
        OF_TASK[kind](whole),
        classes=class_names(meta, whole, kind),
        palette=colours(meta),
        prepare=None,
    )
    if kind == 'detector':
        known = getattr(DATASETS.get('mmdet.CocoDataset'), 'METAINFO', {}).get('classes')
        coco = tuple(known or ()) == tuple(found['classes'])
        found.update(category_ids=COCO_IDS if coco else list(range(1, len(found['classes']) + 1)))
    try:
        if (cfg.model.get('data_preprocessor') or {}).get('test_cfg'):
            raise Unknown('test_cfg of data_preprocessor')  # mmseg's padding
        found.update(prepare=pipeline_steps(dataset.get('pipeline') or []))
    except Unknown as error:
        found.update(unknown=str(error))
    return found


def write(path: str, facts: Dict[str, Any]) -> None:
    """Write into an ONNX file what it is to say of itself."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in facts.items()})
    onnx.save(model, path)


def normalising(cfg: Config) -> Dict[str, Any]:
    """Order of channels, ``mean`` and ``std`` of the images that a model takes."""
    given = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    channels = cfg.model.backbone.get('in_channels', 3)
    swapped = any(given.get(key) for key in ('bgr_to_rgb', 'to_rgb', 'rgb_to_bgr'))
    return dict(
        order='RGB' if swapped else 'BGR',  # pipelines read BGR
        mean=list(given.get('mean') or [0.0] * channels),
        std=list(given.get('std') or [1.0] * channels),
    )


def licence_of(cfg: Config) -> str:
    """What is known of the licence of the weights that a config starts from."""
    start = (cfg.model.backbone.get('init_cfg') or {}).get('checkpoint')
    if not start:
        return 'not stated'
    known = LICENCES.get(cfg.model.backbone.type) or 'licence not known'
    return f'not stated; trained from {start}: {known}'


def dataset_meta(cfg: Config, stored: dict) -> dict:
    """Class names and colours: those of training if the checkpoint has them.

    Args:
        cfg: Config of the model.
        stored: ``meta`` of its checkpoint.
    """
    if stored.get('dataset_meta'):
        return {key.lower(): value for key, value in stored['dataset_meta'].items()}
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    with DATASETS.switch_scope_and_registry(cfg.default_scope) as registry:
        meta = dict(getattr(registry.get(str(dataset.get('type'))), 'METAINFO', {}))
    meta.update(dataset.get('metainfo') or {})
    return meta


def class_names(meta: dict, whole: Any, kind: str) -> List[str]:
    """Names of the classes of a model; numbers where nobody knows them.

    Raises:
        UserError: If there are more or fewer than the model has.
    """
    if kind == 'detector':
        roi_head = getattr(whole, 'roi_head', None)
        heads = stages_of(roi_head.bbox_head) if roi_head is not None else [whole.bbox_head]
        count = heads[-1].num_classes
    else:
        count = (whole.decode_head if kind == 'segmentor' else whole.head).num_classes
    names = [str(name) for name in meta.get('classes') or range(count)]
    if len(names) != count:
        raise UserError(
            f'the data set has {len(names)} classes, the model {count}: set '
            'test_dataloader.dataset.metainfo.classes to those it was trained with'
        )
    return names


def colours(meta: dict) -> Optional[List[List[int]]]:
    """Colours of the classes as RGB, None where a palette is only named or missing."""
    palette = meta.get('palette')
    if not isinstance(palette, (list, tuple)):
        return None
    return [[int(part) for part in colour] for colour in palette]


def of_detector(whole: Any) -> Dict[str, Any]:
    """What is particular to a detector."""
    roi_head = getattr(whole, 'roi_head', None)
    cfg = whole.bbox_head.test_cfg if roi_head is None else roi_head.test_cfg
    found = dict(
        score_thr=cfg.get('score_thr', 0.0),
        max_per_img=cfg.get('max_per_img', getattr(whole, 'num_queries', -1)),
        iou_thr=cfg.nms.iou_threshold if 'nms' in cfg else None,
    )
    if roi_head is not None and roi_head.with_mask:
        found.update(mask_thr=cfg.mask_thr_binary)
    return found


def of_segmentor(whole: Any) -> Dict[str, Any]:
    """What is particular to a segmentor."""
    cfg = whole.test_cfg
    found = dict(
        mode=cfg.get('mode', 'whole'),
        align_corners=whole.align_corners,
        threshold=whole.decode_head.threshold,
    )
    if found['mode'] == 'slide':
        found.update(crop_size=list(cfg.crop_size), stride=list(cfg.stride))
    return found


OF_TASK: Dict[str, Callable[[Any], Dict[str, Any]]] = {
    'detector': of_detector,
    'segmentor': of_segmentor,
    'classifier': lambda whole: {},
}
