"""How long a run takes: a few of its steps that are timed, and arithmetic."""

import math
import statistics
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import torch
from mmengine.config import Config

from .predict import Load


class Timed(NamedTuple):
    """Seconds that were measured.

    Attributes:
        computing: Of each batch, once it is loaded.
        loading: Of each batch, by one process; empty where pictures are drawn.
        pictures: Pictures of the data set; 0 where it is not at hand.
    """

    computing: List[float]
    loading: List[float]
    pictures: int


class Pace(NamedTuple):
    """Seconds of a batch once a loop is under way.

    Attributes:
        seconds: Their mean.
        spread: Two standard errors of the mean.
        waiting: Part of the seconds in which nothing but loading goes on, 0 to 1.
        workers: The fewest that keep up; None where loading was not measured.
    """

    seconds: float
    spread: float
    waiting: float
    workers: Optional[int]


def timed(
    compute: Callable[[Any], Any], batches: Iterator[Any], steps: int, device: str, pictures: int
) -> Timed:
    """Time a function on batches; the first one warms up and does not count.

    Args:
        compute: Takes a batch.
        batches: Batches without end.
        steps: Batches that count, at least 2.
        device: 'cpu' or 'cuda'.
        pictures: Of the data set; 0 where batches are drawn, which is no loading.
    """
    found = Timed([], [], pictures)
    for _ in range(steps + 1):
        start = time.perf_counter()
        batch = next(batches)
        loaded = time.perf_counter()
        compute(batch)
        if device == 'cuda':
            torch.cuda.synchronize()
        found.computing.append(time.perf_counter() - loaded)
        found.loading.append(loaded - start)
    return Timed(found.computing[1:], found.loading[1:] if pictures else [], pictures)


def pace(found: Timed, workers: int) -> Pace:
    """Seconds of a batch where so many processes load; 0: the one that computes."""
    step, step_spread = mean(found.computing)
    if not found.loading:
        return Pace(step, step_spread, 0.0, None)
    fetch, fetch_spread = (x / max(workers, 1) for x in mean(found.loading))
    needed = math.ceil(fetch * max(workers, 1) / step)
    if workers == 0:
        seconds, spread = step + fetch, math.hypot(step_spread, fetch_spread)
    else:
        seconds, spread = max((step, step_spread), (fetch, fetch_spread))
    return Pace(seconds, spread, 1 - step / seconds, needed)


def mean(values: List[float]) -> Tuple[float, float]:
    """The mean of two or more values, and two standard errors of it."""
    return statistics.mean(values), 2 * statistics.stdev(values) / math.sqrt(len(values))


def schedule(
    cfg: Config, load: Load, training: Timed, test: Timed, processes: int = 1
) -> Dict[str, Any]:
    """Seconds of an epoch, of an evaluation and of all, with their spread.

    Args:
        cfg: A config.
        load: Pictures of a batch, and of an epoch where annotations say so.
        training: Steps that were measured.
        test: Batches of an evaluation that were.
        processes: That share the pictures; what they wait for each other is not known.

    Returns:
        ``epoch``, ``evaluation`` and ``whole``: pairs of seconds and spread, None where the number
        of pictures is not known; ``steps`` and ``evaluations``: how many the schedule has.
    """
    trained = pace(training, cfg.train_dataloader.get('num_workers', 0))
    tested = pace(test, (cfg.get('val_dataloader') or {}).get('num_workers', 0))
    loop = cfg.get('train_cfg') or {}
    per_epoch = math.ceil((training.pictures or load.pictures) / (load.batch * processes))
    steps = loop.get('max_iters') or loop.get('max_epochs', 0) * per_epoch
    last = loop.get('max_iters') or loop.get('max_epochs', 0)
    evaluations = (
        math.ceil(last / loop.get('val_interval', 1)) if cfg.get('val_cfg') is not None else 0
    )
    batches = math.ceil(test.pictures / (load.test_batch * processes))

    def times(count: int, one: Pace) -> Optional[Tuple[float, float]]:
        return (count * one.seconds, count * one.spread) if count else None

    whole = times(steps, trained)
    if whole and evaluations and batches:
        each = evaluations * batches
        whole = whole[0] + each * tested.seconds, math.hypot(whole[1], each * tested.spread)
    return dict(
        epoch=times(per_epoch, trained),
        evaluation=times(batches, tested),
        whole=whole,
        steps=steps,
        evaluations=evaluations,
    )
