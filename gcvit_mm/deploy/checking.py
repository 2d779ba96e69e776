"""Comparing an exported detector with mmdet's own predictions, box by box."""

from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..errors import UserError
from .engines import open_engine
from .pictures import paste
from .predictor import Predictor

PIXELS = 0.5  # by which the sides of two boxes may differ
SCORE = 1e-3
IOU = 0.99  # of two masks, at least; a pixel may always differ
# Nearer to the threshold of suppression an overlap is decided by rounding: mmcv moves the boxes of
# a class by its number times the side of the image, in float32.
NEAR = 2e-3
RANK = 1e-3  # by which scores of DINO's tokens may differ
Results = Dict[str, np.ndarray]


class Agreement(NamedTuple):
    """How a file agrees with its model.

    Args:
        boxes: Boxes compared.
        pixels: The largest difference of a side.
        score: The largest difference of a score.
        iou: The least IoU of two masks, 1 without masks.
        undecided: Boxes of one alone, whose overlap with a better box is just what suppresses.
    """

    boxes: int = 0
    pixels: float = 0.0
    score: float = 0.0
    iou: float = 1.0
    undecided: int = 0

    def and_also(self, other: 'Agreement') -> 'Agreement':
        """Both together."""
        return Agreement(
            self.boxes + other.boxes,
            max(self.pixels, other.pixels),
            max(self.score, other.score),
            min(self.iou, other.iou),
            self.undecided + other.undecided,
        )


def drawn_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Draw a picture of shapes of several sizes and colours, (H, W, 3) as RGB bytes."""
    rng = np.random.RandomState(seed)
    shade = np.linspace(60, 190, width)[None, :, None] + rng.uniform(-25, 25, (height, width, 3))
    image = Image.fromarray(shade.astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for i in range(12):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        radius = min(height, width) * rng.uniform(0.05, 0.3)
        colour = tuple(int(part) for part in rng.randint(0, 256, 3))
        if i % 3 == 0:
            pen.ellipse((x - radius, y - radius / 2, x + radius, y + radius / 2), fill=colour)
        elif i % 3 == 1:
            pen.rectangle((x - radius, y - radius, x + radius, y + radius), fill=colour)
        else:
            pen.regular_polygon((x, y, radius), 3 + i % 4, i * 10, fill=colour)
    return np.asarray(image)


def by_torch(
    whole: Any, images: Sequence[np.ndarray], ranks: Optional[np.ndarray] = None
) -> List[Results]:
    """What mmdet predicts for pictures (H, W, C) of one size, RGB, in their pixels.

    Args:
        whole: The model.
        images: The pictures.
        ranks: Of DINO: the tokens (B, Q) that a file gives its queries to, see :func:`ranked`.
    """
    from mmdet.structures import DetDataSample

    size = images[0].shape[:2]
    meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
    inputs = [torch.from_numpy(i[..., ::-1].transpose(2, 0, 1).copy()) for i in images]
    samples = [DetDataSample(metainfo=dict(meta)) for _ in images]
    with torch.no_grad(), ranked(ranks):
        results = whole.test_step(dict(inputs=inputs, data_samples=samples))
    found = []
    for result in results:
        instances = result.pred_instances.numpy()
        own = dict(boxes=instances.bboxes, scores=instances.scores, labels=instances.labels)
        if 'masks' in instances:
            own.update(masks=instances.masks)
        found.append(own)
    return found


@contextmanager
def ranked(ranks: Optional[np.ndarray]) -> Iterator[None]:
    """Let DINO give its queries to the tokens of a file, if those are right but for rounding.

    The first learned query goes to the token that scores best, and so on. Of hundreds some score
    alike to the last digit, and which is first changes what both become.
    """
    topk = torch.topk

    def choose(scores: torch.Tensor, k: int, dim: int = -1, **options: Any) -> Any:
        values, places = topk(scores, k, dim, **options)
        if ranks is not None and places.shape == ranks.shape:
            own = scores.gather(1, torch.from_numpy(ranks))
            if (own - values).abs().max() < RANK:
                return own, torch.from_numpy(ranks)
        return values, places

    torch.topk = choose  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.topk = topk


def name_ranks(path: str) -> Tuple[bytes, str]:
    """Let a DINO also put out its choice of tokens; return the file so, and the output's name."""
    import onnx

    model = onnx.load(path)
    name = next(node.output[1] for node in model.graph.node if node.op_type == 'TopK')
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return model.SerializeToString(), name


def by_file(predictor: Predictor, outputs: Results, images: Sequence[np.ndarray]) -> List[Results]:
    """What a file predicts for the same, of its outputs."""
    height, width = images[0].shape[:2]
    found = []
    for i in range(len(images)):
        own = {k: v[outputs['images'] == i] for k, v in outputs.items() if k != 'images'}
        if 'masks' in own:
            pasted = [
                paste(grid, box, height, width, predictor.facts['mask_thr'])
                for grid, box in zip(own['masks'], own['boxes'])
            ]
            own['masks'] = np.stack(pasted) if pasted else np.zeros((0, height, width), bool)
        found.append(own)
    return found


def compare(wanted: Results, found: Results, facts: Dict[str, Any]) -> Agreement:
    """Match boxes one to one.

    Args:
        wanted: 'boxes' (N, 4), 'scores', 'labels' (N,), perhaps 'masks' (N, H, W), of the model.
        found: Those of the file.
        facts: What the file says: least score of a box, most boxes of an image, threshold of
            suppression. What scores hardly more than the least may be missing on either side; where
            there are as many as there may be, the least score among them is the least.

    Raises:
        UserError: If one has no counterpart; the message says which.
    """
    full = [min(r['scores']) for r in (wanted, found) if len(r['scores']) == facts['max_per_img']]
    sure = max([facts['score_thr'], *full]) + SCORE
    free = np.ones(len(found['scores']), bool)
    agreement = Agreement()
    for i in np.argsort(-wanted['scores'], kind='stable'):
        differences = np.abs(found['boxes'] - wanted['boxes'][i]).max(1, initial=0)
        scores = np.abs(found['scores'] - wanted['scores'][i])
        same = free & (found['labels'] == wanted['labels'][i])
        same &= (differences <= PIXELS) & (scores <= SCORE)
        if not same.any():
            if wanted['scores'][i] > sure:
                agreement = agreement.and_also(alone(wanted, i, found, facts['iou_thr'], 'torch'))
            continue
        j = np.where(same, differences, np.inf).argmin()
        free[j] = False
        iou = 1.0
        if 'masks' in wanted:
            iou = mask_iou(wanted['masks'][i], found['masks'][j])
            if iou < IOU:
                raise UserError(
                    f'the mask of {told(wanted, i)} has IoU {iou:.3f} with that of torch'
                )
        agreement = agreement.and_also(Agreement(1, differences[j], scores[j], iou))
    for j in np.flatnonzero(free & (found['scores'] > sure)):
        agreement = agreement.and_also(alone(found, j, wanted, facts['iou_thr'], 'the file'))
    return agreement


def alone(own: Results, i: int, other: Results, iou_thr: Optional[float], who: str) -> Agreement:
    """Judge a box that only one side has.

    Raises:
        UserError: If it is not one that rounding may have kept or suppressed.
    """
    better = (other['labels'] == own['labels'][i]) & (other['scores'] > own['scores'][i])
    overlaps = box_ious(own['boxes'][i], other['boxes'][better])
    if iou_thr is None or not (np.abs(overlaps - iou_thr) < NEAR).any():
        raise UserError(f'{who} finds {told(own, i)}, and it alone')
    return Agreement(undecided=1)


def box_ious(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of a box (4,) with others (N, 4)."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = sides.clip(0).prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return shared / np.maximum(areas - shared, 1e-9)


def told(results: Results, i: int) -> str:
    """A box in words."""
    corners = ','.join(f'{side:.1f}' for side in results['boxes'][i])
    return f'class {results["labels"][i]} with score {results["scores"][i]:.4f} at {corners}'


def mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two masks; 1 if a single pixel differs, as it may by rounding."""
    if (a != b).sum() <= 1:
        return 1.0
    return (a & b).sum() / (a | b).sum()


def verify_detector(
    whole: Any,
    path: str,
    sizes: Sequence[Tuple[int, int, int]],
    files: Sequence[np.ndarray] = (),
    engine: str = 'onnxruntime',
) -> Agreement:
    """Compare an exported detector with mmdet's ``predict``, from the bytes of pictures on.

    Args:
        whole: mmdet's model.
        path: The file.
        sizes: Batches ``(B, H, W)`` to compare at.
        files: Pictures (h, w, C) to compare with, resized to these; drawn ones if there are none.
        engine: What runs the file.

    Raises:
        UserError: If they find other boxes.
    """
    predictor = Predictor(path, threads=torch.get_num_threads(), engine=engine)
    ranks = ''
    if type(whole).__name__ == 'DINO':
        content, ranks = name_ranks(path)
        predictor.engine = open_engine(path, engine, torch.get_num_threads(), content)
    agreement = Agreement()
    for batch, height, width in sizes:
        pictures = [np.asarray(Image.fromarray(f).resize((width, height))) for f in files]
        if not pictures:
            pictures = [drawn_picture(height, width, seed) for seed in range(batch)]
        for first in range(0, len(pictures), batch):
            images = pictures[first : first + batch]
            where = f'{path} at {len(images)}x{height}x{width}'
            outputs = predictor.run(images)
            wanted = by_torch(whole, images, outputs.pop(ranks, None))
            for a, b in zip(wanted, by_file(predictor, outputs, images)):
                try:
                    more = compare(a, b, predictor.facts)
                except UserError as error:
                    raise UserError(f'{where}: {error}: do not use this file') from error
                agreement = agreement.and_also(more)
    return agreement
