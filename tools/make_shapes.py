"""Draw a small data set of shapes in the layouts of COCO, ADE20K and ImageNet.

The COCO and ADE20K parts show the same images. In a label map 1 is background and 2, 3, ...
are CLASSES; 0 stays free for 'unlabelled'. Each image has its own random stream, so the same
options give the same files, and asking for more images leaves the first ones as they are.

Examples:
    python tools/make_shapes.py data/shapes
"""

from __future__ import annotations

import argparse
import colorsys
import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator, default_rng
from PIL import Image
from rich.progress import track

from gcvit_mm.cli import run_tool
from gcvit_mm.errors import UserError

CLASSES = ('circle', 'square', 'triangle', 'star', 'cross')
HUES = (0.0, 0.13, 0.37, 0.58, 0.82)  # one per class, on a colour circle of length 1
HUE_SPREAD = 0.05
MIN_VISIBLE = 0.5  # least share of a shape that others leave visible
SS = 4  # shapes are drawn this many times larger and scaled down, for smooth edges
CLS_SIZE = 64  # side length of the ImageNet images

SPLITS = ('train', 'val')
COCO_DIRS = {'train': 'train2017', 'val': 'val2017'}
ADE_DIRS = {'train': 'training', 'val': 'validation'}
FIRST_ID = {'train': 1, 'val': 1_000_001}  # of the COCO images
MARKER = 'shapes.json'  # tells what the set was made with
GENERATOR = 'gcvit_mm make_shapes'


class Shape(NamedTuple):
    """A shape in its place; points is its outline as rows of x, y in pixels."""

    label: int
    centre: np.ndarray
    radius: float
    points: np.ndarray


# ------------------------------------------------------------------- geometry
def outline(label: int, rng: Generator) -> np.ndarray:
    """Return the outline of a class around 0, about 1 in radius, its form a little varied."""
    name = CLASSES[label]
    if name == 'cross':
        a = rng.uniform(0.28, 0.36)
        x = np.array([1, 1, a, a, -a, -a, -1, -1, -a, -a, a, a])
        return np.stack([x, np.roll(x, 3)], axis=1)
    count = {'circle': 72, 'square': 4, 'triangle': 3, 'star': 10}[name]
    angles = np.arange(count) * (2 * np.pi / count)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    if name == 'star':
        points[1::2] *= rng.uniform(0.42, 0.5)
    return points * (1, rng.uniform(0.9, 1))


def new_shape(label: int, centre: np.ndarray, radius: float, rng: Generator) -> Shape:
    """Return a shape, turned at random."""
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return Shape(label, centre, radius, outline(label, rng) @ turn * radius + centre)


def enlarged(points: np.ndarray) -> list:
    """Return an outline as OpenCV wants it for a canvas SS times larger."""
    return [np.round(points * SS - 0.5).astype(np.int32)]


def shrink(mask: np.ndarray) -> np.ndarray:
    """Scale an enlarged mask down to the covered share of every pixel, shaped (H, W, 1)."""
    size = (mask.shape[1] // SS, mask.shape[0] // SS)
    return cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)[..., None]


def place(height: int, width: int, size: int, rng: Generator) -> tuple[list[Shape], np.ndarray]:
    """Choose two to five shapes, back to front, that leave each other visible.

    Returns also an enlarged map of what is seen: 0 is background, n the n-th shape.
    """
    shapes, areas = [], []
    seen = np.zeros((height * SS, width * SS), np.uint8)
    wanted = rng.integers(2, 6)
    for _ in range(100):
        if len(shapes) == wanted:
            break
        radius = size * rng.uniform(0.09, 0.23)
        inset = radius * rng.uniform(0.8, 1.3)
        centre = rng.uniform(inset, (width - inset, height - inset))
        # a shape well inside another would leave a hole, which COCO polygons cannot have
        if any(np.hypot(*(centre - s.centre)) < 0.6 * (radius + s.radius) for s in shapes):
            continue
        shape = new_shape(int(rng.integers(len(CLASSES))), centre, radius, rng)
        number = len(shapes) + 1
        trial = cv2.fillPoly(seen.copy(), enlarged(shape.points), number)
        visible = np.bincount(trial.ravel(), minlength=number + 1)[1:]
        if np.all(visible[:-1] >= MIN_VISIBLE * np.array(areas)):
            seen = trial
            shapes.append(shape)
            areas.append(visible[-1])
    return shapes, seen


def polygons(mask: np.ndarray) -> list[np.ndarray]:
    """Return the outlines of the parts of an enlarged mask, in pixels of the image."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contours = [c for c in contours if cv2.contourArea(c) >= 2 * SS**2]  # no slivers
    return [np.round((cv2.approxPolyDP(c, 1, True)[:, 0] + 0.5) / SS, 2) for c in contours]


# ------------------------------------------------------------------- colours
def rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """Return an RGB colour with parts from 0 to 1."""
    return np.array(colorsys.hsv_to_rgb(hue % 1, min(saturation, 1), min(value, 1)), np.float32)


def texture(kind: str, height: int, width: int, period: float, rng: Generator) -> np.ndarray:
    """Return a pattern of numbers from 0 to 1, shaped (H, W, 1)."""
    if kind == 'noise':
        rows, columns = int(height / period) + 2, int(width / period) + 2
        coarse = rng.random((rows, columns), dtype=np.float32)
        pattern = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        return np.clip(pattern, 0, 1)[..., None]
    angle, phase = rng.uniform(0, 2 * np.pi, 2)
    y, x = np.mgrid[:height, :width][..., None] * (2 * np.pi / period)
    u = x * np.cos(angle) + y * np.sin(angle) + phase
    v = y * np.cos(angle) - x * np.sin(angle)
    if kind == 'shade':
        return 0.5 + 0.5 * np.sin(u / 8)
    u, v = np.sin(u), np.sin(v)
    wave = {'stripes': u, 'checkers': u * v, 'dots': u + v - 0.7}[kind]
    return np.clip(0.5 + wave * period / 6, 0, 1)  # edges about one pixel soft


def mix(share: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Blend two colours or images by a share per pixel."""
    return low * (1 - share) + high * share


def background(height: int, width: int, dark: bool, rng: Generator) -> np.ndarray:
    """Draw a muted background."""
    kind = rng.choice(['noise', 'shade', 'stripes', 'checkers'])
    value = rng.uniform(0.16, 0.34) if dark else rng.uniform(0.74, 0.94)
    saturation = rng.uniform(0.15, 0.42) if dark else rng.uniform(0.05, 0.24)
    step = rng.uniform(0.04, 0.09)
    hue = rng.random()
    low = rgb(hue, saturation, value - step)
    high = rgb(hue + rng.uniform(-0.12, 0.12), saturation * rng.uniform(0.5, 1.2), value + step)
    period = min(height, width) * rng.uniform(0.07, 0.16)
    light = texture('shade', height, width, period, rng)
    return mix(texture(kind, height, width, period, rng), low, high) * (0.9 + 0.2 * light)


def draw(canvas: np.ndarray, shape: Shape, dark: bool, rng: Generator) -> np.ndarray:
    """Return the canvas with a textured shape on it, some with a shadow or a rim."""
    height, width = canvas.shape[:2]
    mask = np.zeros((height * SS, width * SS), np.uint8)
    cover = shrink(cv2.fillPoly(mask.copy(), enlarged(shape.points), 1))
    hue = HUES[shape.label] + rng.uniform(-HUE_SPREAD, HUE_SPREAD)
    value = rng.uniform(0.82, 1) if dark else rng.uniform(0.62, 0.9)
    saturation = rng.uniform(0.62, 0.92) if dark else rng.uniform(0.74, 1)
    surface = rgb(hue, saturation, value)

    kind = rng.choice(['plain', 'plain', 'shade', 'stripes', 'checkers', 'dots', 'noise'])
    if kind != 'plain':
        paler = rgb(hue, saturation * 0.55, value * 1.15)
        darker = rgb(hue, saturation, value * 0.68)
        period = max(5, shape.radius * rng.uniform(0.32, 0.6))
        pattern = texture(kind, height, width, period, rng)
        surface = mix(pattern, surface, paler if rng.random() < 0.5 else darker)
    if rng.random() < 0.45:  # shadow
        shift = np.round(rng.uniform(-0.12, 0.12, 2) * shape.radius).astype(int)
        shadow = np.roll(cover, shift, axis=(0, 1))
        shadow = cv2.GaussianBlur(shadow, (0, 0), max(1, shape.radius * 0.1))
        canvas = canvas * (1 - 0.4 * shadow[..., None])
    if rng.random() < 0.4:  # rim
        white = dark and rng.random() < 0.6
        rim = rgb(hue, 0.1, 1) if white else rgb(hue, saturation, value * 0.35)
        thickness = round(SS * max(2.4, shape.radius * rng.uniform(0.12, 0.24)))
        edge = cv2.polylines(mask, enlarged(shape.points), True, 1, thickness)
        surface = mix(shrink(edge), surface, rim)
    return mix(cover, canvas, surface)


def finish(canvas: np.ndarray, rng: Generator) -> np.ndarray:
    """Add a tint and grain; return the image as uint8."""
    grain = rng.normal(0, rng.uniform(0.006, 0.022), canvas.shape)
    return (np.clip(canvas * rng.uniform(0.96, 1.04, 3) + grain, 0, 1) * 255).astype(np.uint8)


# ------------------------------------------------------------------- images
def draw_scene(split: str, index: int, size: int, seed: int) -> tuple:
    """Draw an image of the COCO and ADE20K parts; return it and what place() returns."""
    rng = default_rng([seed, SPLITS.index(split), index])
    height, width = rng.integers(round(size * 0.9), round(size * 1.1) + 1, 2).tolist()
    dark = rng.random() < 0.5
    canvas = background(height, width, dark, rng)
    shapes, seen = place(height, width, size, rng)
    for shape in shapes:
        canvas = draw(canvas, shape, dark, rng)
    return finish(canvas, rng), shapes, seen


def draw_single(split: str, index: int, seed: int) -> np.ndarray:
    """Draw an image of the ImageNet part: one shape, the classes in turn."""
    rng = default_rng([seed, 2 + SPLITS.index(split), index])
    dark = rng.random() < 0.5
    canvas = background(CLS_SIZE, CLS_SIZE, dark, rng)
    centre = CLS_SIZE * rng.uniform(0.42, 0.58, 2)
    shape = new_shape(index % len(CLASSES), centre, CLS_SIZE * rng.uniform(0.27, 0.43), rng)
    return finish(draw(canvas, shape, dark, rng), rng)


# ------------------------------------------------------------------- files
def save(image: np.ndarray, path: Path) -> None:
    """Write a JPEG or PNG file and the folders it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=92, subsampling=0)


def write_scenes(root: Path, split: str, count: int, size: int, seed: int) -> None:
    """Write the COCO and ADE20K parts of a split."""
    ade = root / 'ade' / 'ADEChallengeData2016'
    images, annotations = [], []
    for index in track(range(count), f'{split} images'):
        image, shapes, seen = draw_scene(split, index, size, seed)
        image_id, stem = FIRST_ID[split] + index, f'ADE_{split}_{index + 1:08d}'
        name = f'{image_id:012d}.jpg'
        save(image, root / 'coco' / COCO_DIRS[split] / name)
        save(image, ade / 'images' / ADE_DIRS[split] / f'{stem}.jpg')
        values = np.array([1] + [shape.label + 2 for shape in shapes], np.uint8)
        labels = values[seen[SS // 2 :: SS, SS // 2 :: SS]]
        save(labels, ade / 'annotations' / ADE_DIRS[split] / f'{stem}.png')
        height, width = labels.shape
        images.append(dict(id=image_id, file_name=name, height=height, width=width))
        for number, shape in enumerate(shapes, 1):
            annotation = dict(id=len(annotations) + 1, image_id=image_id, iscrowd=0)
            annotation['category_id'] = shape.label + 1
            mask = (seen == number).astype(np.uint8)
            parts = polygons(mask)
            annotation['segmentation'] = [part.ravel().tolist() for part in parts]
            annotation['area'] = round(float(mask.sum()) / SS**2, 2)
            low, high = np.vstack(parts).min(axis=0), np.vstack(parts).max(axis=0)
            annotation['bbox'] = np.round([*low, *(high - low)], 2).tolist()
            annotations.append(annotation)
    categories = [dict(id=number, name=name) for number, name in enumerate(CLASSES, 1)]
    content = dict(images=images, annotations=annotations, categories=categories)
    folder = root / 'coco' / 'annotations'
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'instances_{COCO_DIRS[split]}.json').write_text(json.dumps(content))


def write_singles(root: Path, split: str, count: int, seed: int) -> None:
    """Write the ImageNet part of a split."""
    for index in track(range(count), f'{split} single shapes'):
        name = CLASSES[index % len(CLASSES)]
        path = root / 'imagenet' / split / name / f'{name}_{index + 1:06d}.jpg'
        save(draw_single(split, index, seed), path)


def already_there(out: Path, record: str, force: bool) -> bool:
    """Tell whether the same set is there; refuse a folder that is to be kept."""
    if not out.exists() or not any(out.iterdir()):
        return False
    found = (out / MARKER).read_text() if (out / MARKER).is_file() else ''
    if found == record and not force:
        return True
    others = {path.name for path in out.iterdir()} - {MARKER, 'coco', 'ade', 'imagenet'}
    if GENERATOR not in found or others:
        raise UserError(f'{out} holds files that are not of this tool: name another folder')
    if not force:
        raise UserError(f'{out} holds a set of other options: replace it with --force')
    return False


def make_shapes(out: Path, params: dict, force: bool = False) -> bool:
    """Write the data set into a folder, which appears only once it is complete.

    Returns False if the same set was there already.
    """
    record = json.dumps(dict(generator=GENERATOR, classes=CLASSES, parameters=params), indent=2)
    if already_there(out, record, force):
        return False
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{out.name}.', dir=out.parent) as folder:
        new = Path(folder, 'new')
        for split in SPLITS:
            write_scenes(new, split, params[split], params['size'], params['seed'])
            write_singles(new, split, params[f'cls_{split}'], params['seed'])
        (new / MARKER).write_text(record)
        if out.exists():
            out.rename(Path(folder, 'old'))
        new.rename(out)
    return True


def main(argv: list[str] | None = None) -> None:
    """Draw."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('out', type=Path, help='folder to write')
    parser.add_argument('--train', type=int, default=400, help='training images (COCO, ADE20K)')
    parser.add_argument('--val', type=int, default=60, help='validation images (COCO, ADE20K)')
    parser.add_argument('--size', type=int, default=160, help='their side length, within a tenth')
    parser.add_argument('--seed', type=int, default=0, help='seed')
    parser.add_argument('--cls-train', type=int, default=200, help='training images (ImageNet)')
    parser.add_argument('--cls-val', type=int, default=50, help='validation images (ImageNet)')
    parser.add_argument('--force', action='store_true', help='replace a set of other options')
    params = vars(parser.parse_args(argv))
    out, force = params.pop('out').resolve(), params.pop('force')
    if params['size'] < 64 or min(params.values()) < 0:
        raise UserError('--size must be 64 or more, the other numbers 0 or more')
    try:
        written = make_shapes(out, params, force)
    except OSError as error:
        raise UserError(f'cannot write {out}: {error}') from error
    print(f'wrote {out}' if written else f'{out} already holds this set: nothing to do')


if __name__ == '__main__':
    run_tool(main)
