"""Draw the figures of the documentation: which tokens attend to which, family by family.

The windows are cut by the code of the package itself, and tests/docs/test_docs.py compares the
tokens drawn here with those that the layers really depend on.

Examples:
    python docs/figures.py docs/images
"""

import argparse
from pathlib import Path
from typing import Callable, Dict, Set, Tuple

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from gcvit_mm.layers import partition

Token = Tuple[int, int]

SIDE = 14  # of the maps that are drawn, in tokens
INCHES = 0.145  # side of a token
IDLE, KEY, QUERY, CONV, GROUP = '#e4e9ef', '#85bbe8', '#c8372d', '#e69500', '#7a5aa6'
WINDOWS = ('#85bbe8', '#a9d6b8', '#d3c1e6', '#f3d79b')  # neighbouring windows, told apart
INK = '#222222'


# ------------------------------------------------------------------- which tokens
def window_of(
    token: Token, size: Tuple[int, int], dilated: bool = False, side: int = SIDE
) -> Set[Token]:
    """Tokens of the window that holds a token, as the package cuts a square map."""
    numbers = torch.arange(side * side).view(1, side, side, 1)
    windows = partition(numbers, size, dilated)[0, ..., 0]
    row = (windows == token[0] * side + token[1]).any(1).nonzero().item()
    return {divmod(number, side) for number in windows[row].tolist()}


def around(token: Token, kernel: int, side: int = SIDE) -> Set[Token]:
    """Tokens of a map that a convolution sees at a token."""
    half = kernel // 2
    rows, cols = (range(max(0, i - half), min(side, i + half + 1)) for i in token)
    return {(row, col) for row in rows for col in cols}


# ------------------------------------------------------------------- drawing
def draw_map(ax: Axes, x: float, y: float, colours: np.ndarray) -> None:
    """Draw a map of coloured tokens (H, W, RGB) with its upper left corner at x, y."""
    height, width = colours.shape[:2]
    ax.imshow(colours, extent=(x, x + width, y + height, y), interpolation='nearest')
    ax.hlines([y + i for i in range(height + 1)], x, x + width, 'white', linewidth=0.8)
    ax.vlines([x + i for i in range(width + 1)], y, y + height, 'white', linewidth=0.8)


def draw(tokens: Set[Token], colour: str = KEY, side: int = SIDE) -> np.ndarray:
    """Colours of a square map: the tokens in one colour, the others idle."""
    colours = np.full((side, side, 3), to_rgb(IDLE))
    for token in tokens:
        colours[token] = to_rgb(colour)
    return colours


def mark(ax: Axes, x: float, y: float, token: Token) -> None:
    """Mark the token that asks."""
    ax.add_patch(Rectangle((x + token[1], y + token[0]), 1, 1, facecolor=QUERY, edgecolor='white'))


def frame(ax: Axes, x: float, y: float, tokens: Set[Token], colour: str = CONV) -> None:
    """Draw a frame around the rectangle that tokens fill."""
    rows, cols = zip(*tokens)
    size = (max(cols) - min(cols) + 1, max(rows) - min(rows) + 1)
    corner = (x + min(cols), y + min(rows))
    ax.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=2.5, zorder=3))


def arrow(ax: Axes, start: Tuple[float, float], end: Tuple[float, float], text: str = '') -> None:
    """Draw an arrow with a text above its middle."""
    style = dict(arrowstyle='-|>', mutation_scale=11, linewidth=1.3, color=INK)
    ax.add_patch(FancyArrowPatch(start, end, shrinkA=0, shrinkB=0, **style))
    middle = ((start[0] + end[0]) / 2, min(start[1], end[1]) - 0.5)
    ax.text(*middle, text, ha='center', va='bottom', fontsize=8, color=INK)


def say(ax: Axes, x: float, title: str, notes: str, width: float = SIDE, y: float = SIDE) -> None:
    """Write the title above and the notes below a map."""
    ax.text(x + width / 2, -0.8, title, ha='center', va='bottom', fontsize=9.5, weight='bold')
    ax.text(x + width / 2, y + 0.7, notes, ha='center', va='top', fontsize=8.5, color=INK)


# ------------------------------------------------------------------- the families
def draw_gcvit(ax: Axes) -> float:
    """GC ViT: local windows, the global query, and its use in all windows."""
    token, size = (4, 5), (7, 7)
    draw_map(ax, 0, 0, draw(window_of(token, size)))
    mark(ax, 0, 0, token)
    say(ax, 0, 'even blocks: local', 'a token attends to\nthe tokens of its window')

    x = 20
    draw_map(ax, x, 0, draw(set(np.ndindex(SIDE, SIDE))))
    arrow(ax, (x + 14.5, 7), (x + 22.5, 7), 'MB blocks,\npooling')
    draw_map(ax, x + 23, 3.5, draw(set(np.ndindex(7, 7)), '#efc3bf', 7))
    mark(ax, x + 23, 3.5, token)
    say(ax, x, 'once a stage: the global query', 'made from the whole map,\none window large', 30)

    x = 56
    colours = draw(set())
    for number, corner in enumerate([(0, 0), (0, 7), (7, 0), (7, 7)]):
        for row, col in window_of(corner, size):
            colours[row, col] = to_rgb(WINDOWS[number])
    draw_map(ax, x, 0, colours)
    for row, col in [(0, 0), (0, 7), (7, 0), (7, 7)]:
        mark(ax, x, 0, (token[0] + row, token[1] + col))
    say(ax, x, 'odd blocks: global', 'every window is asked by the\nsame query, each for itself')
    arrow(ax, (50.5, 7), (55.5, 7))
    return x + SIDE


def draw_scalablevit(ax: Axes) -> float:
    """ScalableViT: windows whose values are convolved, and attention to a reduced map."""
    token = (4, 6)
    draw_map(ax, 0, 0, draw(window_of(token, (7, 7))))
    mark(ax, 0, 0, token)
    frame(ax, 0, 0, around(token, 3))
    say(
        ax,
        0,
        'even blocks: IWSA',
        'attention in the window, and a 3x3\nconvolution of the values (LIM)\nacross its border',
    )

    x = 24
    draw_map(ax, x, 0, draw(set(np.ndindex(SIDE, SIDE)), '#c9e0f4'))
    ax.hlines(range(0, SIDE + 1, 2), x, x + SIDE, 'white', linewidth=2.4)
    ax.vlines(range(x, x + SIDE + 1, 2), 0, SIDE, 'white', linewidth=2.4)
    mark(ax, x, 0, token)
    arrow(ax, (x + 14.5, 7), (x + 22.5, 7), 'convolution,\nstride s')
    draw_map(ax, x + 23, 3.5, draw(set(np.ndindex(7, 7)), KEY, 7))
    say(
        ax,
        x,
        'odd blocks: SSA',
        'every token attends to the whole map, of which s x s tokens\n'
        'make one key; queries and keys have r times the channels',
        30,
    )
    return x + 30


def draw_gg(ax: Axes) -> float:
    """GG-Transformer: dilated partitions, the gaze convolution, both."""
    token, kernel = (6, 5), 3
    glance, gaze = window_of(token, (7, 7), dilated=True), around(token, kernel)
    parts = [
        ('glance', 'attention to 7x7 tokens that lie\nequidistant over the map', glance, set()),
        ('gaze', 'a depthwise convolution of the\nvalues, k about the distance', set(), gaze),
        ('every block: their sum', 'far and near at a cost\nlinear in the tokens', glance, gaze),
    ]
    for number, (title, notes, keys, near) in enumerate(parts):
        x = 22 * number
        draw_map(ax, x, 0, draw(keys))
        if near:
            frame(ax, x, 0, near)
        mark(ax, x, 0, token)
        say(ax, x, title, notes)
    ax.text(18, 7, '+', ha='center', va='center', fontsize=16)
    ax.text(40, 7, '=', ha='center', va='center', fontsize=16)
    return 44 + SIDE


def draw_gpvit(ax: Axes) -> float:
    """GPViT: stripes in both directions, and group propagation."""
    token = (5, 8)
    for x, size, text in ((0, (SIDE, 2), 'vertical'), (18, (2, SIDE), 'horizontal')):
        stripe = window_of(token, size)
        draw_map(ax, x, 0, draw(stripe))
        frame(ax, x, 0, around(token, 3) & stripe)
        mark(ax, x, 0, token)
        say(ax, x, '', f'half of the channels:\n{text} stripes')
    ax.text(16, -0.8, 'local layers', ha='center', va='bottom', fontsize=9.5, weight='bold')

    x, everything = 40, set(np.ndindex(SIDE, SIDE))
    draw_map(ax, x, 0, draw(everything))
    arrow(ax, (x + 14.5, 7), (x + 20.5, 7), 'group')
    for row in range(7):
        ax.add_patch(Rectangle((x + 21.5, 2 * row + 0.3), 1.4, 1.4, facecolor=GROUP))
    ax.add_patch(Rectangle((x + 20.9, -0.1), 2.6, SIDE + 0.2, fill=False, edgecolor=GROUP))
    arrow(ax, (x + 24, 7), (x + 30, 7), 'ungroup')
    draw_map(ax, x + 30.5, 0, draw(everything, '#c9bade'))
    mark(ax, x + 30.5, 0, token)
    ax.text(
        x + 22.25,
        -0.8,
        'layers 1, 4, 7, 10: group propagation',
        ha='center',
        va='bottom',
        fontsize=9.5,
        weight='bold',
    )
    ax.text(
        x + 22.25,
        SIDE + 0.7,
        '16 to 64 group tokens attend to all tokens, are mixed by an MLP,\n'
        'and every token attends to them',
        ha='center',
        va='top',
        fontsize=8.5,
    )
    return x + 30.5 + SIDE


FIGURES: Dict[str, Callable[[Axes], float]] = dict(
    gcvit=draw_gcvit, scalablevit=draw_scalablevit, gg=draw_gg, gpvit=draw_gpvit
)


def save(name: str, path: Path) -> None:
    """Draw one figure into a file."""
    figure = Figure(facecolor='white')
    ax = figure.add_axes((0, 0, 1, 1))
    width = FIGURES[name](ax) + 8  # room for the texts below the outer maps
    height = SIDE + 7
    ax.set_xlim(-4, width - 4)
    ax.set_ylim(SIDE + 4.2, -2.8)
    ax.axis('off')
    figure.set_size_inches(width * INCHES, height * INCHES)
    figure.savefig(path, dpi=150, metadata=dict(Software=None))


def main() -> None:
    """Draw all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path, help='folder to write')
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({'font.family': 'DejaVu Sans', 'text.color': INK}):
        for name in FIGURES:
            save(name, out / f'attend_{name}.png')


if __name__ == '__main__':
    main()
