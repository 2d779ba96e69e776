"""Turning released checkpoints into ours."""

from typing import Dict, Tuple

from torch import Tensor

from ..errors import CheckpointError
from . import gcvit, gpvit, scalablevit
from .layout import Layout

OURS = Layout('gcvit_mm', marks=(r'^patch_embed\.', r'^(stages\.0\.blocks|layers)\.0\.'))
LAYOUTS = (*gcvit.LAYOUTS, *scalablevit.LAYOUTS, *gpvit.LAYOUTS, OURS)
BACKBONE = 'backbone.'


def detect_layout(state_dict: Dict[str, Tensor]) -> Layout:
    """Tell in which layout the keys of a backbone are.

    Args:
        state_dict: Keys without ``backbone.`` prefix.

    Raises:
        CheckpointError: If no layout fits.
    """
    for layout in LAYOUTS:
        if layout.matches(state_dict):
            return layout
    first = ', '.join(list(state_dict)[:3])
    known = ', '.join(layout.name for layout in LAYOUTS)
    raise CheckpointError(
        f'unknown checkpoint layout (keys such as {first}); known layouts: {known}'
    )


def split_state_dict(
    state_dict: Dict[str, Tensor],
) -> Tuple[Dict[str, Tensor], Dict[str, Tensor], Layout]:
    """Convert a state dict and split it into backbone and rest.

    Args:
        state_dict: Weights of a classifier, of a bare backbone, or of a whole detector or
            segmentor whose backbone keys begin with ``backbone.``.

    Returns:
        Weights of the backbone (our keys, without prefix), those of heads and necks, and the
        layout that was recognised.
    """
    if any(key.startswith(BACKBONE) for key in state_dict):
        backbone = {k[len(BACKBONE) :]: v for k, v in state_dict.items() if k.startswith(BACKBONE)}
        rest = {k: v for k, v in state_dict.items() if not k.startswith(BACKBONE)}
    else:
        backbone, rest = dict(state_dict), {}
    layout = detect_layout(backbone)
    converted, rest = layout.convert(backbone), layout.convert_rest(rest)
    rest.update({k: v for k, v in converted.items() if k.startswith('head.')})
    return {k: v for k, v in converted.items() if not k.startswith('head.')}, rest, layout


def convert_state_dict(state_dict: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Convert a state dict of any known layout to the keys of this package.

    Args:
        state_dict: Weights in the authors', timm's or our layout, with or without
            ``backbone.`` before the keys of the backbone.

    Returns:
        State dict with ``backbone.`` and ``head.`` keys, as mmpretrain's classifier, mmdet's
        detectors and mmseg's segmentors have them.

    Raises:
        CheckpointError: If the layout is unknown.
    """
    backbone, rest, _ = split_state_dict(state_dict)
    return {**{BACKBONE + key: value for key, value in backbone.items()}, **rest}
