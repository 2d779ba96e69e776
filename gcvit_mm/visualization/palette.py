"""Colours of classes that can be told apart."""

from typing import List, Tuple

# The first five are what keeps farthest apart (CIEDE2000) of the colours of the usual palettes for
# normal, red-, green- and blue-blind sight (Machado et al. 2009); each of the others is far from
# all before it in the same way. Grey, dark and pale ones are left out: they are lost in photos.
COLOURS = (
    (232, 0, 11),
    (0, 215, 255),
    (237, 201, 72),
    (139, 43, 226),
    (0, 158, 115),
    (255, 119, 187),
    (119, 51, 68),
    (0, 85, 119),
    (187, 238, 187),
    (102, 136, 255),
    (119, 119, 68),
    (153, 102, 153),
    (238, 119, 0),
    (136, 34, 0),
    (136, 170, 85),
    (0, 119, 119),
    (255, 170, 136),
    (119, 85, 51),
    (204, 136, 136),
    (255, 17, 238),
)


def distinct_colours(count: int) -> List[Tuple[int, int, int]]:
    """Choose colours for classes.

    Args:
        count: Number of classes; from the 21st on the colours begin anew.

    Returns:
        As many colours, RGB, as ``metainfo`` of a data set takes them as ``palette``.
    """
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
