"""Images of what backbones do; not imported with the package."""

from .attention_maps import AttentionMap, attention_maps, group_map, group_maps
from .drawing import Placement, draw, draw_features
from .features import FeatureMap, feature_maps, find_layers
from .recording import all_blocks, find_blocks, find_groups

__all__ = [
    'AttentionMap',
    'FeatureMap',
    'Placement',
    'all_blocks',
    'attention_maps',
    'draw',
    'draw_features',
    'feature_maps',
    'find_blocks',
    'find_groups',
    'find_layers',
    'group_map',
    'group_maps',
]
