"""Drawing attention maps over an image."""

from typing import Any, Dict, NamedTuple, Sequence, Tuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from .attention_maps import AttentionMap

COLUMNS = 4
PANEL = 3.2  # inches
DPI = 110
FADING = 0.35  # how far the original is moved towards white
LEAST_CELL = 5  # points: side of a single cell
ZOOM_BELOW = 0.25  # share of the original below which what is seen is shown larger
GOLDEN = 0.618034  # of the colour circle: neighbouring numbers get colours far apart


class Placement(NamedTuple):
    """Where the image that the network sees lies in the original, that of the file.

    Attributes:
        scale: Pixels of the image for one of the original, in x and y.
        offset: Pixels cut off at the left and at the top after scaling.
        size: Width and height of the image, without the padding of a batch.
    """

    scale: Tuple[float, float]
    offset: Tuple[float, float]
    size: Tuple[int, int]

    @classmethod
    def of(cls, meta: Dict[str, Any]) -> 'Placement':
        """Read the placement from the ``metainfo`` of a data sample.

        Pipelines tell the scale, not what a centre crop cuts off: that is what the scaled
        original has more than the image, half of it at each side.
        """
        scale = tuple(float(s) for s in meta.get('scale_factor', (1.0, 1.0)))
        size = tuple(int(side) for side in meta['img_shape'][1::-1])
        scaled = (round(side * s) for side, s in zip(meta['ori_shape'][1::-1], scale))
        offset = tuple(float(max(0, round((a - b) / 2))) for a, b in zip(scaled, size))
        return cls(scale, offset, size)  # type: ignore[arg-type]

    def holds(self, x: float, y: float) -> bool:
        """Tell whether a point lies in the image."""
        return 0 <= x < self.size[0] and 0 <= y < self.size[1]

    def to_image(self, x: float, y: float) -> Tuple[float, float]:
        """Centre of a pixel of the original, in pixels of the image."""
        (sx, sy), (ox, oy) = self.scale, self.offset
        return (x + 0.5) * sx - ox, (y + 0.5) * sy - oy

    def to_original(self, x: float, y: float) -> Tuple[float, float]:
        """A point of the image, in pixels of the original."""
        (sx, sy), (ox, oy) = self.scale, self.offset
        return (x + ox) / sx, (y + oy) / sy


def draw(
    original: np.ndarray,
    pixel: Tuple[int, int],
    maps: Sequence[AttentionMap],
    placement: Placement,
    out_file: str,
) -> None:
    """Draw one panel a map: the original in grey, the weights or groups in colours.

    Cells that the pixel does not look at have no colour; where what it looks at is a small part
    of the original, only its surroundings are shown.

    Args:
        original: RGB image (H, W, 3), uint8.
        pixel: ``(x, y)`` in pixels of the original.
        maps: Maps, from :func:`gcvit_mm.visualization.attention_maps`.
        placement: Where the image of the maps lies in the original.
        out_file: PNG file to write.
    """
    height, width = original.shape[:2]
    columns = min(COLUMNS, len(maps))
    rows = -(-len(maps) // columns)
    panel_height = min(max(PANEL * height / width, 0.4 * PANEL), 2 * PANEL)
    size = (columns * PANEL, rows * (panel_height + 0.5))
    figure = Figure(size, layout=ConstrainedLayoutEngine(h_pad=0.08))
    for ax, attention_map in zip(figure.subplots(rows, columns, squeeze=False).flat, maps):
        _draw(ax, original, pixel, attention_map, placement)
    for ax in figure.axes:
        ax.set_axis_off()
    figure.savefig(out_file, dpi=DPI)


def _draw(
    ax: Axes,
    original: np.ndarray,
    pixel: Tuple[int, int],
    attention_map: AttentionMap,
    placement: Placement,
) -> None:
    height, width = original.shape[:2]
    faded = FADING * 255 + (1 - FADING) * (original @ np.array([0.299, 0.587, 0.114]))
    ax.imshow(faded, cmap='gray', vmin=0, vmax=255, extent=(0, width, height, 0))
    rows, cols = attention_map.values.shape
    left, top = placement.to_original(0, 0)
    right, bottom = placement.to_original(
        cols * attention_map.cell[1], rows * attention_map.cell[0]
    )
    name = f'{attention_map.name}: {attention_map.kind}'
    view: Tuple[float, ...] = (0, width, height, 0)
    if attention_map.groups:
        colours = _group_colours(attention_map)
        ax.imshow(colours, extent=(left, right, bottom, top), interpolation='nearest')
    else:
        colours, seen = _heat(attention_map), attention_map.seen.nonzero().numpy()
        cell = np.array([(bottom - top) / rows, (right - left) / cols])
        low, high = seen.min(0), seen.max(0) + 1
        mask = attention_map.seen
        if not (mask[:, 1:] & mask[:, :-1]).any():  # single cells, perhaps too small to see
            side = max(PANEL * 72 * cell[1] / width, LEAST_CELL)
            y, x = (seen + 0.5).T * cell[:, None] + np.array([[top], [left]])
            ax.scatter(x, y, s=side**2, c=colours[tuple(seen.T)], marker='s', linewidths=0)
        else:
            ax.imshow(colours, extent=(left, right, bottom, top), interpolation='nearest')
        low, high = low * cell + (top, left), high * cell + (top, left)
        share = float(((high - low) / (height, width)).max())
        if share < ZOOM_BELOW:
            name += ' (zoomed)'
            shown = 3 * share * np.array([height, width])
            y, x = np.clip((low + high - shown) / 2, 0, (height, width) - shown)
            view = (x, x + shown[1], y + shown[0], y)
    for colour, size in (('black', 2.6), ('white', 1.2)):
        x, y = pixel[0] + 0.5, pixel[1] + 0.5
        ax.plot(x, y, marker='+', markersize=13, markeredgewidth=size, color=colour)
    ax.set_xlim(view[0], view[1])
    ax.set_ylim(view[2], view[3])
    ax.set_title(f'{name}\n{_summary(attention_map)}', fontsize=8)


def _heat(attention_map: AttentionMap) -> np.ndarray:
    """Weights as colours (h, w, 4): the largest brightest; no colour where nothing is seen."""
    weights = attention_map.values.numpy()
    colours = colormaps['plasma'](weights / weights.max())
    colours[..., 3] = 0.65 * attention_map.seen.numpy()
    return colours


def _group_colours(attention_map: AttentionMap) -> np.ndarray:
    """Numbers of group tokens as colours (h, w, 4), far apart from number to number."""
    labels = attention_map.values.numpy()
    hue = labels * GOLDEN % 1
    value = np.where(labels % 2, 0.75, 1.0)
    colours = hsv_to_rgb(np.stack([hue, np.full_like(hue, 0.75), value], -1))
    return np.concatenate([colours, np.full((*labels.shape, 1), 0.6)], -1)


def _summary(attention_map: AttentionMap) -> str:
    if attention_map.groups:
        return f'{len(attention_map.values.unique())} of {attention_map.groups} groups are used'
    largest = float(attention_map.values.max())
    summary = f'{int(attention_map.seen.sum())} cells, largest weight {largest:.3f}'
    if attention_map.elsewhere >= 0.005:
        where = 'the class token' if 'class token' in attention_map.kind else 'padding'
        summary += f', {attention_map.elsewhere:.0%} on {where}'
    return summary
