"""Detectors whose convolutions run channels-last, where CPUs do the work."""

from torch import channels_last, nn

# Classes of mmdet that take maps in any order in memory: those of which the configs are made.
WHOLE = {'FasterRCNN', 'MaskRCNN', 'CascadeRCNN', 'RetinaNet'}
HOLDERS = {'StandardRoIHead', 'CascadeRoIHead', 'ModuleList'}
PARTS = {
    *('DetDataPreprocessor', 'FPN', 'RPNHead', 'RetinaHead', 'SingleRoIExtractor'),
    *('ConvFCBBoxHead', 'Shared2FCBBoxHead', 'Shared4Conv1FCBBoxHead', 'FCNMaskHead'),
}


def bears(part: nn.Module) -> bool:
    """Whether a part of a detector takes maps in any order; others may view them as (B, C, -1)."""
    kind = type(part)
    if kind.__name__ in HOLDERS:
        return all(map(bears, part.children()))
    return kind.__name__ in PARTS and kind.__module__.startswith('mmdet.')


def go_channels_last(model: nn.Module) -> None:
    """Let neck and heads of a detector compute channels-last, on a CPU, where all of them bear it.

    Their weights are laid out so, and maps follow; oneDNN reorders both for every convolution
    otherwise. Results are the same up to rounding. Other models stay as they are: segmentors need
    more memory so, and their steps gain nothing in float32.

    Args:
        model: A model, not wrapped yet but for test-time augmentation; changed in place.
    """
    model = getattr(model, 'module', model)
    if type(model).__name__ not in WHOLE:
        return
    parts = [part for name, part in model.named_children() if name != 'backbone']
    if all(map(bears, parts)):
        for part in parts:
            part.to(memory_format=channels_last)  # type: ignore[call-overload]
