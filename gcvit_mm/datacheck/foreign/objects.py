"""What every format is read into, and the geometry of it."""

import math
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple

from ..report import some

Box = Tuple[float, float, float, float]
Ring = List[Tuple[float, float]]
CORNERS = 64  # of the polygon that stands for a circle


class Thing(NamedTuple):
    """An object: its class, and its box or its outline.

    Attributes:
        label: Name of the class.
        box: Left, top, right and bottom in pixels, from 0; None where there is an outline.
        outline: Polygons, each a list of points.
        crowd: Whether it is neither learned nor counted.
    """

    label: str
    box: Optional[Box] = None
    outline: Tuple[Ring, ...] = ()
    crowd: bool = False


class Annotated:
    """An image with its objects.

    Attributes:
        image: Its path.
        source: The file that describes it, for messages.
        things: Its objects; boxes and outlines are fractions of the image with ``relative``.
        stated: Width and height that the annotation speaks of, None where it says nothing.
        splits: Names of the splits it belongs to.
    """

    def __init__(
        self,
        image: str,
        source: str,
        things: List[Thing],
        stated: Optional[Tuple[int, int]] = None,
        relative: bool = False,
    ) -> None:
        self.image, self.source, self.things = image, source, things
        self.stated, self.relative = stated, relative
        self.splits: Set[str] = set()


class Notes:
    """What was left out or changed, by kind."""

    def __init__(self) -> None:
        self.found: Dict[str, List[str]] = {}

    def add(self, kind: str, name: str) -> None:
        """Count one case; ``kind`` is a clause that follows the number of them."""
        self.found.setdefault(kind, []).append(name)

    def lines(self) -> List[str]:
        """A line for every kind."""
        return [f'{len(names)} {kind}: {some(names)}' for kind, names in self.found.items()]


def number(value: Any) -> float:
    """A finite number.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(value, bool) or not math.isfinite(float(value)):
        raise ValueError(f'{value!r} is no number')
    return float(value)


def points(values: Any) -> Ring:
    """A list of pairs as points."""
    return [(number(x), number(y)) for x, y in values]


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> Ring:
    """A polygon for an ellipse around (x, y), turned by an angle in radians."""
    ring = []
    for i in range(CORNERS):
        a, b = (f(2 * math.pi * i / CORNERS) for f in (math.cos, math.sin))
        ring.append(
            (
                x + rx * a * math.cos(angle) - ry * b * math.sin(angle),
                y + rx * a * math.sin(angle) + ry * b * math.cos(angle),
            )
        )
    return ring


def bounds(rings: Tuple[Ring, ...]) -> Box:
    """The box around polygons."""
    xs, ys = zip(*(point for ring in rings for point in ring))
    return min(xs), min(ys), max(xs), max(ys)


def area(ring: Ring) -> float:
    """Area of a polygon."""
    pairs = zip(ring, ring[1:] + ring[:1])
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairs)) / 2


def corners(box: Box) -> Ring:
    """A box as a polygon."""
    left, top, right, bottom = box
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def scaled(thing: Thing, width: int, height: int) -> Thing:
    """An object in pixels that was in fractions of its image."""
    box = thing.box
    return thing._replace(
        box=box and (box[0] * width, box[1] * height, box[2] * width, box[3] * height),
        outline=tuple([(x * width, y * height) for x, y in ring] for ring in thing.outline),
    )


def clip(thing: Thing, width: int, height: int) -> Thing:
    """An object without what lies beyond its image."""

    def inside(x: float, y: float) -> Tuple[float, float]:
        return min(max(x, 0.0), float(width)), min(max(y, 0.0), float(height))

    box = thing.box
    return thing._replace(
        box=box and (*inside(*box[:2]), *inside(*box[2:])),
        outline=tuple([inside(*point) for point in ring] for ring in thing.outline),
    )


def tidy(value: float) -> float:
    """A number as it shall stand in a file: hundredths of a pixel."""
    value = round(value, 2)
    return int(value) if value == int(value) else value
