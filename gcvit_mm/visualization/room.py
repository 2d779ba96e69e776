"""How much larger small images are drawn, for their texts to have room."""


def room_for_text(height: int, width: int) -> dict:
    """Option of mmpretrain's visualizer that enlarges small images, but no strip a pixel high."""
    short, long = min(height, width), max(height, width)
    side = min(224, 2240 * short // long)
    return dict(resize=side) if side > short else {}


def enlargement(height: int, width: int, short_side: int = 480) -> int:
    """How many times larger a small image is drawn for its texts to have room.

    Its shorter side gets at least ``short_side`` pixels then, but no strip is drawn longer than ten
    times that.
    """
    short, long = min(height, width), max(height, width)
    return max(1, min(-(-short_side // short), 10 * short_side // long))
