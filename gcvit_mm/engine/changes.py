"""What a config changes in a run that goes on: learning rates are applied, the rest is named."""

import math
from typing import Any, Iterator, List, Tuple

from mmengine.dist import get_world_size
from mmengine.optim import OptimWrapperDict

from ..errors import CheckpointError

# What schedulers count; all else of their state was given to them.
COUNTED = ('last_step', 'base_values', 'best', 'num_bad_epochs', 'cooldown_counter', 'verbose')


def take_changes(runner: Any, checkpoint: dict, path: str) -> List[str]:
    """Put the learning rates of the config into a checkpoint that training resumes from.

    mmengine would go on with those of the checkpoint, whatever the config says.

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
        saved, theirs = checkpoint['optimizer'], checkpoint.get('param_schedulers') or []
        if name:
            saved = saved.get(name)
            theirs = theirs.get(name) or [] if isinstance(theirs, dict) else theirs
        problem = mismatch(wrapper, ours, saved, theirs)
        if problem:
            raise CheckpointError(
                f'--resume: {path} holds {problem}: use the config it was trained with, or start '
                'from its weights with --cfg-options load_from=CHECKPOINT'
            )
        groups = list(saved['param_groups'])
        if saved.get('base_param_settings') is not None:
            groups.append(saved['base_param_settings'])
        said += rates(wrapper.param_groups, groups, theirs)
        kept = [*settings(wrapper.param_groups, groups), *schedules(ours, theirs)]
        if kept:
            said.append(
                f'--resume: kept from the checkpoint, not changed by the config: {", ".join(kept)}'
            )
    before, now = (checkpoint['meta'].get('run') or {}).get('images'), images(runner)
    if before and list(before) != now:
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


def mismatch(wrapper: Any, ours: list, saved: Any, theirs: Any) -> str:
    """Say what keeps an optimizer and its schedulers from going on; '' if nothing does."""
    groups = saved.get('param_groups') if isinstance(saved, dict) else None
    own = wrapper.optimizer.param_groups
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        return 'no state of the optimizer'
    sizes = [len(group.get('params') or ()) for group in groups]
    if sizes != [len(group['params']) for group in own]:
        return f'an optimizer of {len(groups)} groups and {sum(sizes)} weights, unlike the config'
    for group, other in zip(groups, own):
        lacking = [key for key in ('betas', 'momentum', 'lr') if key in other and key not in group]
        if lacking:
            return f'the state of another optimizer (it has no {lacking[0]})'
        if any(not sound(group[key]) for key in ('lr', 'initial_lr') if key in group):
            return 'a learning rate that is none'
    if not isinstance(theirs, list) or len(theirs) != len(ours):
        return f'{len(theirs)} param_schedulers, the config {len(ours)}'
    for state, scheduler in zip(theirs, ours):
        count = state.get('last_step') if isinstance(state, dict) else None
        if type(count) is not int or not -1 <= count < 2**40:
            return 'a scheduler without a step'
        values, bases = state.get('base_values'), getattr(scheduler, 'base_values', None)
        if bases is not None and (not isinstance(values, list) or len(values) != len(bases)):
            return 'a scheduler of another optimizer'
    return ''


def sound(value: Any) -> bool:
    """Tell whether a value can be a learning rate."""
    return isinstance(value, (int, float)) and math.isfinite(value) and value >= 0


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
    said = []
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
    return said[-1:]  # groups differ by constant factors; the last is the optimizer's own


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
