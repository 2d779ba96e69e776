"""What makes a run fit that does not: changes of its config, each predicted as the run is."""

import copy
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple

from mmengine.config import Config
from torch import nn

from ..engine.sharding import BLOCKS
from .predict import Load, Prediction, build, predict_test, predict_training


class Change(NamedTuple):
    """A change of a run.

    Attributes:
        what: In words.
        options: What to add to the command of training.
        peak: Bytes that are needed with it.
        cost: What it costs.
    """

    what: str
    options: str
    peak: int
    cost: str


def changes(
    cfg: Config, load: Load, chosen: Dict[str, Any]
) -> Iterator[Tuple[str, str, str, Config, Load]]:
    """Changes, the cheapest first, each together with those before it and with chosen settings."""
    cfg, options = copy.deepcopy(cfg), ''
    if cfg.optim_wrapper.get('type') != 'AmpOptimWrapper':
        cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype='bfloat16')
        options += ' --amp'
        yield 'bfloat16', options + as_options(chosen), 'rounding', copy.deepcopy(cfg), load
    for what, found, cost in settings(cfg):
        chosen.update(found)
        cfg.merge_from_dict(found)
        yield what, options + as_options(chosen), cost, copy.deepcopy(cfg), load
    batch = load.batch
    while batch > 1:
        batch //= 2
        times = -(-load.batch // batch)
        chosen['train_dataloader.batch_size'] = batch
        chosen['optim_wrapper.accumulative_counts'] = times
        cfg.merge_from_dict(chosen)
        yield (
            f'batches of {batch}, {times} to a step (the same rate)',
            options + as_options(chosen),
            'time, statistics of BN',
            copy.deepcopy(cfg),
            load._replace(batch=batch),
        )


def settings(cfg: Config) -> List[Tuple[str, Dict[str, Any], str]]:
    """Settings that save memory, by what they are called, and what they cost."""
    found: List[Tuple[str, Dict[str, Any], str]] = []
    if not cfg.model.backbone.get('with_cp'):
        found.append(
            ('with_cp', {'model.backbone.with_cp': True}, 'the forward pass of the blocks again')
        )
    return found


def as_options(chosen: Dict[str, Any]) -> str:
    """Settings as options of a command line."""
    if not chosen:
        return ''
    return ' --cfg-options ' + ' '.join(f'{key}={value}' for key, value in chosen.items())


def advise(
    cfg: Config, load: Load, found: Prediction, room: int, reserve: Callable[[int], int]
) -> List[Change]:
    """Changes until one fits.

    Args:
        cfg: The config of a run that does not fit.
        load: What a process is given.
        found: Its prediction.
        room: Bytes of a GPU.
        reserve: Bytes that a GPU must have for a peak.
    """
    made: List[Change] = []
    chosen: Dict[str, Any] = {}
    if load.test_batch > 1 and reserve(found.tested) > room:
        chosen['val_dataloader.batch_size'] = 1
        found = found._replace(test=predict_test(cfg, load._replace(test_batch=1))[0])
        what, cost = 'evaluation of single pictures', 'time of evaluation'
        made.append(Change(what, as_options(chosen).strip(), reserve(found.peak), cost))
        if made[-1].peak <= room:
            return made
    for what, options, cost, changed, given in changes(cfg, load, chosen):
        changed_too = found._replace(train=predict_training(changed, given)[0])
        made.append(Change(what, options.strip(), reserve(changed_too.peak), cost))
        if made[-1].peak <= room:
            break
    return made


def largest_batch(
    cfg: Config, load: Load, peak: int, room: int, reserve: Callable[[int], int]
) -> int:
    """The largest batch that fits, from the line through two; 0 if not even one picture does."""
    other = load.batch + 1
    more = predict_training(cfg, load._replace(batch=other))[0].bytes
    each = max(more - peak, 1)
    batch = load.batch
    while batch and reserve(peak + (batch - load.batch) * each) > room:
        batch -= 1
    while reserve(peak + (batch + 1 - load.batch) * each) <= room:
        batch += 1
    return batch


def sharded(model: nn.Module, prediction: Prediction, processes: int) -> int:
    """Bytes a process needs where FSDP divides weights, gradients and states among processes.

    What is no block is gathered for the whole step, of the blocks two at a time.
    """
    units = [m for m in model.modules() if isinstance(m, BLOCKS)]
    sizes = sorted(
        (sum(p.numel() * p.element_size() for p in unit.parameters()) for unit in units),
        reverse=True,
    )
    whole = sum(p.numel() * p.element_size() for p in model.parameters())
    gathered = 2 * (whole - sum(sizes)) + 2 * sum(sizes[:2])  # with gradients
    kept = 0
    for (_, cause), size in prediction.train.owners.items():
        divided = cause in ('weights', 'gradients', 'optimizer state')
        kept += size // processes if divided else size
    return kept + gathered


def with_sharding(
    cfg: Config,
    prediction: Prediction,
    room: int,
    reserve: Callable[[int], int],
    processes: Sequence[int] = (2, 4, 8),
) -> List[Change]:
    """FSDP over the fewest processes that fit; none where even the most do not."""
    model = build(cfg)
    for count in processes:
        peak = reserve(sharded(model, prediction, count))
        if peak <= room:
            cost = f'{count} GPUs, communication'
            options = 'configs/strategies/fsdp.py'
            return [Change(f'FSDP over {count} GPUs', options, peak, cost)]
    return []
