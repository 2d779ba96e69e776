"""Drawing attention maps over an image, and feature maps beside it."""

import math
from typing import IO, Any, Dict, NamedTuple, Optional, Sequence, Tuple, Union

import cv2
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from .attention_maps import AttentionMap
from .features import FeatureMap

COLUMNS = 4
PANEL = 3.2  # inches
BAR = 0.6  # inches beside a panel
DPI = 110
FADING = 0.35  # how far the original is moved towards white
HEAT = 'plasma'
OPACITY = 0.65  # of weights over the original
LEAST_CELL = 5  # points: side of a single cell
ZOOM_BELOW = 0.25  # share of the original below which what is seen is shown larger
NUMBERED_FROM = 2  # cells from the middle of a group to the next, where it gets its number
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
    pixel: Optional[Tuple[int, int]],
    maps: Sequence[AttentionMap],
    placement: Placement,
    out_file: Union[str, IO[bytes]],
) -> None:
    """Draw one panel a map: the original in grey, the weights or groups in colours.

    A bar beside a panel says which colour is which weight. Cells that the pixel does not look at
    have no colour; where what it looks at is a small part of the original, only its surroundings
    are shown.

    Args:
        original: RGB image (H, W, 3), uint8.
        pixel: ``(x, y)`` in pixels of the original; ``None`` for maps of groups alone.
        maps: Maps, from :func:`gcvit_mm.visualization.attention_maps` or ``group_maps``.
        placement: Where the image of the maps lies in the original.
        out_file: PNG file to write, or a stream.
    """
    columns = min(COLUMNS, len(maps))
    bar = 0.0 if all(attention_map.groups for attention_map in maps) else BAR
    figure, panels = _sheet(original, -(-len(maps) // columns), columns, bar)
    for ax, attention_map in zip(panels.flat, maps):
        _draw(ax, original, pixel, attention_map, placement)
    figure.savefig(out_file, dpi=DPI)


def draw_features(
    original: np.ndarray,
    rows: Sequence[Tuple[str, Placement, Sequence[FeatureMap]]],
    out_file: str,
) -> None:
    """Draw a row a model: the original, and every map in colours from its least to its largest.

    Args:
        original: RGB image (H, W, 3), uint8.
        rows: Title, where the image of the maps lies in the original, and as many maps in each,
            from :func:`gcvit_mm.visualization.feature_maps`.
        out_file: PNG file to write.
    """
    height, width = original.shape[:2]
    figure, panels = _sheet(original, len(rows), 1 + len(rows[0][2]))
    for row, (title, placement, maps) in zip(panels, rows):
        row[0].imshow(original, extent=(0, width, height, 0))
        row[0].set_title(title, fontsize=8)
        for ax, feature_map in zip(row[1:], maps):
            cell, (w, h) = feature_map.cell, placement.size  # what padding gives is left out
            values = feature_map.values[: math.ceil(h / cell[0]), : math.ceil(w / cell[1])].numpy()
            extent = _extent(values.shape, cell, placement)
            ax.imshow(values, extent=extent, cmap='viridis', interpolation='nearest')
            ax.set_xlim(0, width)
            ax.set_ylim(height, 0)
            size = f'{values.shape[0]}x{values.shape[1]}'
            summary = f'{size}, {values.min():.3g} to {values.max():.3g}'
            ax.set_title(f'{feature_map.name}\n{summary}', fontsize=8)
    figure.savefig(out_file, dpi=DPI)


def _sheet(
    original: np.ndarray, rows: int, columns: int, bar: float = 0.0
) -> Tuple[Figure, np.ndarray]:
    """Figure and panels (rows, columns) of the shape of the original, with room for bars."""
    height, width = original.shape[:2]
    panel_height = min(max(PANEL * height / width, 0.4 * PANEL), 2 * PANEL)
    size = (columns * (PANEL + bar), rows * (panel_height + 0.5))
    figure = Figure(size, layout=ConstrainedLayoutEngine(h_pad=0.08))
    panels = figure.subplots(rows, columns, squeeze=False)
    for ax in panels.flat:
        ax.set_axis_off()
    return figure, panels


def _extent(
    shape: Tuple[int, ...], cell: Tuple[float, float], placement: Placement
) -> Tuple[float, float, float, float]:
    """Left, right, bottom and top of a map, in pixels of the original."""
    left, top = placement.to_original(0, 0)
    right, bottom = placement.to_original(shape[1] * cell[1], shape[0] * cell[0])
    return left, right, bottom, top


def _draw(
    ax: Axes,
    original: np.ndarray,
    pixel: Optional[Tuple[int, int]],
    attention_map: AttentionMap,
    placement: Placement,
) -> None:
    height, width = original.shape[:2]
    faded = FADING * 255 + (1 - FADING) * (original @ np.array([0.299, 0.587, 0.114]))
    ax.imshow(faded, cmap='gray', vmin=0, vmax=255, extent=(0, width, height, 0))
    rows, cols = attention_map.values.shape
    extent = _extent((rows, cols), attention_map.cell, placement)
    left, right, bottom, top = extent
    name = f'{attention_map.name}: {attention_map.kind}'
    view: Tuple[float, ...] = (0, width, height, 0)
    if attention_map.groups:
        ax.imshow(_group_colours(attention_map), extent=extent, interpolation='nearest')
        for number, (row, col) in _numbered(attention_map).items():
            x = left + (col + 0.5) * (right - left) / cols
            y = top + (row + 0.5) * (bottom - top) / rows
            ax.text(x, y, str(number), fontsize=7, ha='center', va='center', clip_on=True)
    else:
        colours, seen = _heat(attention_map), attention_map.seen.nonzero().numpy()
        _add_bar(ax, attention_map)
        cell = np.array([(bottom - top) / rows, (right - left) / cols])
        low, high = seen.min(0), seen.max(0) + 1
        mask = attention_map.seen
        if not (mask[:, 1:] & mask[:, :-1]).any():  # single cells, perhaps too small to see
            side = max(PANEL * 72 * cell[1] / width, LEAST_CELL)
            y, x = (seen + 0.5).T * cell[:, None] + np.array([[top], [left]])
            ax.scatter(x, y, s=side**2, c=colours[tuple(seen.T)], marker='s', linewidths=0)
        else:
            ax.imshow(colours, extent=extent, interpolation='nearest')
        low, high = low * cell + (top, left), high * cell + (top, left)
        share = float(((high - low) / (height, width)).max())
        if share < ZOOM_BELOW:
            name += ' (zoomed)'
            shown = 3 * share * np.array([height, width])
            y, x = np.clip((low + high - shown) / 2, 0, (height, width) - shown)
            view = (x, x + shown[1], y + shown[0], y)
    if pixel:
        for colour, size in (('black', 2.6), ('white', 1.2)):
            x, y = pixel[0] + 0.5, pixel[1] + 0.5
            ax.plot(x, y, marker='+', markersize=13, markeredgewidth=size, color=colour)
    ax.set_xlim(view[0], view[1])
    ax.set_ylim(view[2], view[3])
    ax.set_title(f'{name}\n{_summary(attention_map)}', fontsize=8)


def _heat(attention_map: AttentionMap) -> np.ndarray:
    """Weights as colours (h, w, 4): the largest brightest; no colour where nothing is seen."""
    weights = attention_map.values.numpy()
    colours = colormaps[HEAT](weights / weights.max())
    colours[..., 3] = OPACITY * attention_map.seen.numpy()
    return colours


def _add_bar(ax: Axes, attention_map: AttentionMap) -> None:
    """Show beside a panel which colour is which weight, from 0 to the largest."""
    largest = float(attention_map.values.max())
    place = ax.inset_axes((1.02, 0, 0.05, 1))
    colours = ScalarMappable(Normalize(0, largest), HEAT)
    bar = ax.figure.colorbar(colours, cax=place, alpha=OPACITY)  # type: ignore[union-attr]
    bar.set_ticks([0, largest / 2, largest], labels=['0', f'{largest / 2:.2g}', f'{largest:.2g}'])
    bar.ax.tick_params(labelsize=7)


def _group_colours(attention_map: AttentionMap) -> np.ndarray:
    """Numbers of group tokens as colours (h, w, 4), far apart from number to number."""
    labels = attention_map.values.numpy()
    hue = labels * GOLDEN % 1
    value = np.where(labels % 2, 0.75, 1.0)
    colours = hsv_to_rgb(np.stack([hue, np.full_like(hue, 0.75), value], -1))
    return np.concatenate([colours, 0.6 * attention_map.seen.numpy()[..., None]], -1)


def _numbered(attention_map: AttentionMap) -> Dict[int, Tuple[int, int]]:
    """Groups that are seen and have room for a number, and of each the cell deepest inside."""
    labels = attention_map.values.numpy()
    found = {}
    for number in np.unique(labels[attention_map.seen.numpy()]):
        inside = np.pad(labels == number, 1).astype(np.uint8)
        depth = cv2.distanceTransform(inside, cv2.DIST_C, 3)[1:-1, 1:-1]
        if depth.max() >= NUMBERED_FROM:
            row, col = np.unravel_index(depth.argmax(), depth.shape)
            found[int(number)] = (int(row), int(col))
    return found


def _summary(attention_map: AttentionMap) -> str:
    if attention_map.groups and not attention_map.seen.all():
        numbers = attention_map.values[attention_map.seen].unique().tolist()
        share = float(attention_map.seen.float().mean())
        return f'{share:.0%} of the cells in groups {", ".join(map(str, numbers)) or "chosen"}'
    if attention_map.groups:
        return f'{len(attention_map.values.unique())} of {attention_map.groups} groups are used'
    largest = float(attention_map.values.max())
    summary = f'{int(attention_map.seen.sum())} cells, largest weight {largest:.3f}'
    if attention_map.elsewhere >= 0.005:
        where = 'the class token' if 'class token' in attention_map.kind else 'padding'
        summary += f', {attention_map.elsewhere:.0%} on {where}'
    return summary
