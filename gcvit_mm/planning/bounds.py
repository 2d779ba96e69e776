"""What stands in a shadow for parts of mmdet that decide by numbers, or ask if there is a GPU."""

import importlib
from contextlib import ExitStack
from typing import Any, List
from unittest import mock

import torch
from torch import Tensor
from torch.utils import checkpoint

from ..layers import attention
from ..ops import deform_attn
from ..ops.roi_align import FORWARD_ENTRIES
from ..ops.roi_align_table import to_table


def bounds(gpu: bool, dispatch: Any) -> ExitStack:
    """Have mmdet, where it is installed, run in a shadow for as long as the context lasts.

    Args:
        gpu: Whether it is to run as on a GPU.
        dispatch: Shows every operation to who asks.
    """
    stack = ExitStack()
    if gpu:
        stack.enter_context(mock.patch.object(attention, '_bias_learns', lambda bias: False))
        stack.enter_context(mock.patch.object(deform_attn, 'is_compiling', lambda: True))
        stack.enter_context(mock.patch.object(checkpoint, 'get_device_states', no_states))
        stack.enter_context(mock.patch.object(checkpoint, 'set_device_states', no_states))
    try:
        from mmdet.models.losses import FocalLoss
        from mmdet.models.roi_heads.bbox_heads import BBoxHead
        from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
        from mmdet.models.task_modules.assigners import MaxIoUAssigner
    except ImportError:
        return stack
    extension = importlib.import_module('mmcv.ops.roi_align').ext_module
    for name, function in (('forward', pooled), ('backward', unpooled)):
        name = f'roi_align_{name}'
        function = on_cpu(function, getattr(extension, name))
        stack.enter_context(mock.patch.object(extension, name, function))
    stack.enter_context(mock.patch.object(SingleRoIExtractor, 'map_roi_levels', spread))
    stack.enter_context(mock.patch.object(BBoxHead, 'refine_bboxes', refined))
    stack.enter_context(mock.patch.object(FocalLoss, 'forward', by_device(FocalLoss.forward)))
    if gpu:
        assign = beside(MaxIoUAssigner.assign, dispatch)
        stack.enter_context(mock.patch.object(MaxIoUAssigner, 'assign', assign))
    return stack


def spread(self: Any, rois: Tensor, num_levels: int) -> Tensor:
    """Which map each box is pooled of: as many of each."""
    return torch.tensor([i % num_levels for i in range(len(rois))], device=rois.device)


def refined(
    self: Any, sampling_results: List[Any], bbox_results: dict, batch_img_metas: List[dict]
) -> List[Any]:
    """What a stage of a cascade makes of its boxes: all of them."""
    from mmengine.structures import InstanceData

    rois = bbox_results['rois']
    each = len(rois) // len(batch_img_metas)
    return [InstanceData(bboxes=rois.new_empty(each, 4)) for _ in batch_img_metas]


def beside(assign: Any, dispatch: Any) -> Any:
    """An assignment that is computed on the CPU where there are more objects than its threshold.

    Its memory is then not that of the GPU, but for what it returns.
    """

    def run(self: Any, pred_instances: Any, gt_instances: Any, *args: Any, **kwargs: Any) -> Any:
        if not 0 < self.gpu_assign_thr < len(gt_instances):
            return assign(self, pred_instances, gt_instances, *args, **kwargs)
        seen, dispatch.seen = dispatch.seen, None
        try:
            found = assign(self, pred_instances, gt_instances, *args, **kwargs)
        finally:
            dispatch.seen = seen
        for name in ('gt_inds', 'max_overlaps', 'labels'):
            value = getattr(found, name)
            setattr(found, name, None if value is None else value.clone())
        return found

    return run


def no_states(*args: Any, **kwargs: Any) -> Any:
    """States of random numbers of GPUs: there are none."""
    return [], []


def on_cpu(function: Any, other: Any) -> Any:
    """An operator that is another one on a GPU."""

    def operator(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (other if x.is_cuda else function)(x, *args, **kwargs)

    return operator


def pooled(x: Tensor, rois: Tensor, output: Tensor, *args: Any, **kwargs: Any) -> None:
    """Memory of :func:`gcvit_mm.ops.roi_align.roi_align_forward` for boxes of any size."""
    if not output.numel():
        return
    table = to_table(x)
    bins = output[0, 0].numel()
    boxes = min(len(output), max(1, FORWARD_ENTRIES // (9 * bins)))
    weights = [x.new_empty(boxes * bins * 9, dtype=dtype) for dtype in (torch.int64, torch.float32)]
    sums = table.new_empty(boxes * bins, x.shape[1])
    moved = sums.view(boxes, bins, -1).transpose(1, 2).contiguous()
    del table, weights, moved


def unpooled(
    grad: Tensor, rois: Tensor, y: Tensor, x: Tensor, grad_input: Tensor, *args: Any, **kwargs: Any
) -> None:
    """Memory of :func:`gcvit_mm.ops.roi_align.roi_align_backward` for boxes of any size."""
    if not grad.numel():
        return
    bins = grad[0, 0].numel()
    last = grad.new_empty(len(grad) * bins, grad.shape[1], dtype=torch.float32)
    weights = [grad.new_empty(len(grad) * bins * 9, dtype=torch.int64) for _ in range(4)]
    total = grad.new_empty(grad_input.numel(), dtype=torch.float32)
    del last, weights, total


def by_device(forward: Any) -> Any:
    """A loss that asks if there is a GPU, answered by the device of its input."""

    def run(self: Any, pred: Tensor, *args: Any, **kwargs: Any) -> Any:
        with mock.patch.object(torch.cuda, 'is_available', lambda: pred.is_cuda):
            return forward(self, pred, *args, **kwargs)

    return run
