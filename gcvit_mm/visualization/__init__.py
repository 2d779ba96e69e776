"""Images of what backbones do; not imported with the package."""

from .attention_maps import AttentionMap, attention_maps, find_blocks, group_map
from .drawing import Placement, draw

__all__ = ['AttentionMap', 'Placement', 'attention_maps', 'find_blocks', 'group_map', 'draw']
