"""What a config changes in a run that goes on: learning rates are applied, the rest is named."""

import math
from typing import Any, Iterator, List, Tuple

from mmengine.dist import get_world_size
from mmengine.optim import OptimWrapperDict

from ..errors import CheckpointError
from .sharding import own_moments
from .states import mismatch, sound, without_state

# How an optimizer computes, which is the business of the machine at hand.
HOW = ('foreach', 'fused', 'capturable', 'differentiable')
# What schedulers count; all else of their state was given to them.
COUNTED = ('last_step', 'base_values', 'best', 'num_bad_epochs', 'cooldown_counter', 'verbose')


def take_changes(runner: Any, checkpoint: dict, path: str) -> List[str]:
    """Put the learning rates of the config into a checkpoint that training resumes from.

    mmengine would go on with those of the checkpoint, whatever the config says. Moments get the
    order of the weights here, see :func:`~gcvit_mm.engine.sharding.part_of`.

    Args:
        runner: The runner; its optimizer and schedulers are built.
        checkpoint: The checkpoint, read; changed in place.
        path: Where from, for messages.

    Returns:
        A line for every change: what was applied, and what stays as it was.

    Raises:
        CheckpointError: If the checkpoint has other optimizers or schedulers than the config.
    """
    said: List[str] = []
    for name, wrapper, ours in parts(runner):
        saved, theirs = checkpoint['optimizer'], checkpoint.get('param_schedulers')
        if name:
            saved = saved.get(name)
            theirs = theirs.get(name) if isinstance(theirs, dict) else theirs
        theirs = [] if theirs is None else theirs
        problem = mismatch(wrapper.optimizer, ours, saved, theirs)
        if problem:
            raise CheckpointError(
                f'--resume: {path} holds {problem}: use the config it was trained with, or start '
                'from its weights with --cfg-options load_from=CHECKPOINT'
            )
        groups = list(saved['param_groups'])
        if saved.get('base_param_settings') is not None:
            groups.append(saved['base_param_settings'])
        for group, old in zip(wrapper.param_groups, groups):
            old.update((key, group[key]) for key in HOW if key in group)
        own_moments(wrapper.optimizer, saved)
        new = without_state(wrapper.optimizer, saved)
        if new:
            said.append(
                f'--resume: the optimizer of {path} knows nothing of {new} weights, as if they had '
                'never had a gradient: they start anew'
            )
        said += rates(wrapper.param_groups, groups, theirs)
        kept = [*settings(wrapper.param_groups, groups), *schedules(ours, theirs)]
        if kept:
            said.append(
                f'--resume: kept from the checkpoint, not changed by the config: {", ".join(kept)}'
            )
    run, now = checkpoint['meta'].get('run'), images(runner)
    before: Any = run.get('images') if isinstance(run, dict) else None
    known = isinstance(before, list) and [type(n) for n in before] == [int] * 3
    if known and before != now:
        said.append(
            f'--resume: {math.prod(now)} images a step ({described(now)}) instead of '
            f'{math.prod(before)} ({described(before)}): from here on they are other ones than '
            'without a break, and the learning rate may need to be scaled'
        )
    return said


def parts(runner: Any) -> Iterator[Tuple[str, Any, list]]:
    """Name, optimizer and schedulers of what is optimized apart; mostly one, without a name."""
    wrapper, schedulers = runner.optim_wrapper, runner.param_schedulers or []
    several = isinstance(wrapper, OptimWrapperDict)
    for name, part in wrapper.items() if several else [('', wrapper)]:
        yield name, part, schedulers.get(name, []) if isinstance(schedulers, dict) else schedulers


def rates(own: List[dict], saved: List[dict], schedulers: List[dict]) -> List[str]:
    """Put the learning rates of the config into the state of an optimizer and its schedulers."""
    of_rates = [state for state in schedulers if state.get('param_name') == 'lr']
    # what a rate falls to, whatever it begins with
    floors = [
        state['eta_min']
        for state in of_rates
        if sound(state.get('eta_min')) and state.get('begin', 0) < state.get('_global_step', 0)
    ]
    floor = max(floors, default=0.0)
    odd, said = set_by_none(saved, of_rates), []
    for i, (group, old) in enumerate(zip(own, saved)):
        if 'lr' not in group or 'lr' not in old:
            continue
        base, before = group.get('initial_lr', group['lr']), old.get('initial_lr', old['lr'])
        if math.isclose(base, before, rel_tol=1e-9):
            continue
        low = floor if before > floor else 0.0
        scale = (base - low) / (before - low) if before else 0.0
        old['lr'] = low + (old['lr'] - low) * scale if before else base
        if 'initial_lr' in old:
            old['initial_lr'] = base
        for state in of_rates:
            if 'base_values' in state:  # not those that wait for a metric
                state['base_values'][i] = base
            if isinstance(state.get('_last_value'), list) and i < len(state['_last_value']):
                state['_last_value'][i] = old['lr']
        said.append(f'--resume: the learning rate {before:g} of the checkpoint is now {base:g}')
    return odd + said[-1:]  # groups differ by constant factors; the last is the optimizer's own


def set_by_none(groups: List[dict], schedulers: List[dict]) -> List[str]:
    """Say which learning rate of an optimizer none of its schedulers has set last, if one is."""
    lasts = [state.get('_last_value') for state in schedulers]
    for i, group in enumerate(groups):
        values = [last[i] for last in lasts if isinstance(last, list) and i < len(last)]
        rate: Any = group.get('lr')
        if values and sound(rate) and not any(math.isclose(rate, v, rel_tol=1e-9) for v in values):
            return [
                f'--resume: the checkpoint trains on with a learning rate of {rate:g}, where its '
                f'schedulers have set {values[-1]:g}: if no hook of yours has changed it, resume '
                'from an earlier one'
            ]
    return []


def settings(own: List[dict], saved: List[dict]) -> Iterator[str]:
    """Other settings of the optimizer that differ, which stay as they were."""
    seen = set()
    for group, old in zip(own, saved):
        for key in sorted({*group} & {*old} - {'params', 'lr', 'initial_lr'}):
            first = key if key.startswith('initial_') else f'initial_{key}'
            value, before = group.get(first, group[key]), old.get(first, old[key])
            plain = isinstance(value, (bool, int, float, str, tuple))
            if plain and key not in seen and differ(value, before):
                seen.add(key)
                yield f'{key}={before} (config: {value})'


def schedules(own: list, saved: List[dict]) -> Iterator[str]:
    """Settings of schedulers that differ, which stay as they were."""
    for i, (scheduler, old) in enumerate(zip(own, saved)):
        for key, value in scheduler.state_dict().items():
            if key in old and key not in COUNTED and not key.startswith('_'):
                if differ(value, old[key]):
                    yield f'param_scheduler.{i}.{key}={shown(old[key])} (config: {shown(value)})'


def differ(value: Any, before: Any) -> bool:
    """Compare settings; those that cannot be compared count as equal."""
    if callable(value):
        return False
    try:
        return bool(value != before)
    except (TypeError, ValueError, RuntimeError):
        return False


def shown(value: Any) -> str:
    """A setting for a message; counters of milestones as their list."""
    return str(sorted(value) if isinstance(value, dict) else value)[:60]


def images(runner: Any) -> List[int]:
    """Processes, images a batch and accumulated batches of a step; empty where not known."""
    loader = runner.train_dataloader
    batch = getattr(loader, 'batch_size', None) or getattr(
        getattr(loader, 'batch_sampler', None), 'batch_size', None
    )
    counts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
    return [get_world_size(), batch, counts] if isinstance(batch, int) else []


def described(numbers: List[int]) -> str:
    """Processes, images and accumulated batches for a message."""
    return '{} x {} x {} accumulated'.format(*numbers)
