"""What makes a run fit that does not: changes of its config, each predicted as the run is."""

import copy
import shlex
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Sequence

from mmengine.config import Config
from torch import nn

from ..engine.sharding import BLOCKS
from ..errors import UserError
from .pictures import smaller
from .predict import Load, Prediction, build, find_load, predict_test, predict_training

# Sides of smaller pictures, and the share of the most objects from which on they are assigned to
# anchors on the CPU.
FACTORS = (0.75, 0.5)
CROWDED = 0.25
AMP = {'optim_wrapper.type': 'AmpOptimWrapper', 'optim_wrapper.dtype': 'bfloat16'}


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


class Step(NamedTuple):
    """What can be changed.

    Attributes:
        what: In words.
        settings: Settings of the config; of several the first with which all fits, else the last.
        cost: What it costs.
        given: What it changes of what a process is given; all of them must fit.
    """

    what: str
    settings: Sequence[Dict[str, Any]]
    cost: str
    given: Sequence[Dict[str, Any]] = ({},)


def steps(cfg: Config, load: Load) -> Iterator[Step]:
    """What can be changed, the cheapest first."""
    if load.test_batch > 1:
        settings: Dict[str, Any] = {'val_dataloader.batch_size': 1}
        one = dict(test_batch=1)
        yield Step('evaluation of single pictures', [settings], 'time of evaluation', [one])
    if cfg.optim_wrapper.get('type') != 'AmpOptimWrapper':
        yield Step('bfloat16', [AMP], 'rounding')
    choices = [{'model.backbone.with_cp': stages} for stages in recomputations(cfg)]
    if choices:
        yield Step('with_cp', choices, 'the forward pass of these blocks again')
    fewer = int(load.objects * CROWDED)
    settings = {f'{key}.gpu_assign_thr': fewer for key in assigners(cfg)}
    if settings and fewer:
        what = f'anchors of pictures with more than {fewer} objects assigned on the CPU'
        yield Step(what, [settings], 'time of those pictures', [{}, dict(objects=fewer)])
    batch = load.batch
    while batch > 1:
        batch //= 2
        count = -(-load.batch // batch)
        settings = {
            'train_dataloader.batch_size': batch,
            'optim_wrapper.accumulative_counts': count,
        }
        what = f'batches of {batch}, {count} to a step (the same rate)'
        yield Step(what, [settings], 'time, statistics of BN', [dict(batch=batch)])
    for factor in FACTORS:
        settings, changed = smaller_pictures(cfg, factor), copy.deepcopy(cfg)
        changed.merge_from_dict(settings)
        try:
            before, after = find_load(cfg), find_load(changed)
        except UserError:  # no pipeline says how large pictures are
            return
        if (before.train, before.test) != (load.train, load.test):  # --size does
            return
        sizes = dict(train=after.train, test=after.test)
        yield Step(f'pictures with sides of {factor:.0%}', [settings], 'accuracy', [sizes])


def recomputations(cfg: Config) -> List[Any]:
    """Values of ``with_cp`` that save more than the config's, the cheapest first.

    The first stages hold most for their floating point operations: a quarter of the stages, two,
    three, all. Backbones of other packages recompute all or nothing.
    """
    present = cfg.model.backbone.get('with_cp') or []
    if not isinstance(present, (list, tuple)):
        return []
    count = len(getattr(build(cfg).backbone, 'recomputed', ()))
    quarters = sorted({-(-count * k // 4) for k in (1, 2, 3)} - {count})
    return [*(list(range(n)) for n in quarters if {*present} < {*range(n)}), True]


def assigners(cfg: Config) -> List[str]:
    """Keys of what compares all anchors of a detector with all objects."""
    learning = cfg.model.get('train_cfg') or {}
    found = {
        'model.train_cfg': learning,
        'model.train_cfg.rpn': isinstance(learning, dict) and learning.get('rpn'),
    }
    return [
        f'{key}.assigner'
        for key, node in found.items()
        if isinstance(node, dict)
        and str((node.get('assigner') or {}).get('type')).endswith('MaxIoUAssigner')
    ]


def smaller_pictures(cfg: Config, factor: float) -> Dict[str, Any]:
    """Settings that make pictures smaller in training and evaluation."""
    found: Dict[str, Any] = {}
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get(loader):
            found.update(smaller(cfg[loader].dataset, factor, f'{loader}.dataset'))
    size = (cfg.model.get('data_preprocessor') or {}).get('size')
    if size:  # segmentors pad to it
        found['model.data_preprocessor.size'] = tuple(round(x * factor) for x in size)
    return found


def as_options(chosen: Dict[str, Any]) -> str:
    """Settings as options of a command line."""
    amp = all(chosen.get(key) == value for key, value in AMP.items())
    words = [
        shlex.quote(f'{key}={str(value).replace(" ", "")}')
        for key, value in chosen.items()
        if not (amp and key in AMP)
    ]
    return ' '.join(['--amp'] * amp + ['--cfg-options', *words] * bool(words))


def advise(
    cfg: Config,
    load: Load,
    found: Prediction,
    room: int,
    reserve: Callable[[int], int],
    processes: int = 1,
) -> List[Change]:
    """Changes until all fits, each on top of those before it; what brings nothing is left out.

    Args:
        cfg: The config of a run that does not fit.
        load: What a process is given.
        found: Its prediction.
        room: Bytes of a GPU.
        reserve: Bytes that a GPU must have for a peak.
        processes: Processes that train together.
    """

    def excess(one: Prediction) -> int:
        """Bytes that training and evaluation have too little."""
        return sum(max(0, reserve(x) - room) for x in (one.train.bytes, one.tested))

    made: List[Change] = []
    chosen: Dict[str, Any] = {}
    for step in steps(cfg, load):
        tests = any('test' in key for key in step.given[0])
        trains = not tests or 'train' in step.given[0]
        if not (trains and reserve(found.train.bytes) > room) and not (
            tests and reserve(found.tested) > room
        ):
            continue
        given = [load._replace(**x) for x in step.given]
        for settings in step.settings:
            changed, again = copy.deepcopy(cfg), found
            changed.merge_from_dict({**chosen, **settings})
            if trains:
                moments = [predict_training(changed, x, processes=processes)[0] for x in given]
                again = again._replace(train=max(moments, key=lambda moment: moment.bytes))
            if tests:
                again = again._replace(test=predict_test(changed, given[0])[0])
            if not excess(again):
                break
        if excess(again) >= excess(found):
            continue
        found, load = again, given[0]
        chosen.update(settings)
        made.append(Change(step.what, as_options(chosen), reserve(found.peak), step.cost))
        if not excess(found):
            break
    return made


def largest_batch(
    cfg: Config, load: Load, peak: int, room: int, reserve: Callable[[int], int], processes: int = 1
) -> int:
    """The largest batch that fits, from the line through two; 0 if not even one picture does."""
    other = load._replace(batch=load.batch + 1)
    more = predict_training(cfg, other, processes=processes)[0].bytes
    each = max(more - peak, 1)
    batch = load.batch
    while batch and reserve(peak + (batch - load.batch) * each) > room:
        batch -= 1
    while reserve(peak + (batch + 1 - load.batch) * each) <= room:
        batch += 1
    return batch


def sharded(model: nn.Module, prediction: Prediction, processes: int) -> int:
    """Bytes a process needs where FSDP divides weights, gradients and states among processes.

    What is no block is gathered for the whole step, of the blocks two at a time. An evaluation is
    counted with all weights, which is more than it has.
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
        if cause != 'DDP buckets':  # which FSDP has not
            kept += size // processes if divided else size
    states = sum(
        size for (_, cause), size in prediction.train.owners.items() if cause == 'optimizer state'
    )
    averaged = sum(size for (_, cause), size in prediction.train.owners.items() if cause == 'EMA')
    return max(kept + gathered, prediction.test.bytes + states // processes + averaged)


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
