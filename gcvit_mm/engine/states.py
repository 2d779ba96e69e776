"""Whether what a checkpoint holds is a state of these optimizers and schedulers."""

import math
from typing import Any, List

import torch

NEEDED = ('lr', 'betas', 'momentum', 'eps', 'weight_decay')
# Moments have the shape of their weight.
MOMENTS = {'exp_avg', 'exp_avg_sq', 'max_exp_avg_sq', 'momentum_buffer'}


def mismatch(optimizer: Any, ours: list, saved: Any, theirs: Any) -> str:
    """Say what keeps an optimizer and its schedulers from going on.

    Args:
        optimizer: torch's optimizer of the run.
        ours: Schedulers of the run.
        saved: State of an optimizer, from a checkpoint.
        theirs: States of schedulers.

    Returns:
        What is held instead; empty if both are states of these.
    """
    groups = saved.get('param_groups') if isinstance(saved, dict) else None
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        return 'no state of the optimizer'
    own = optimizer.param_groups
    numbers = [number_of(group) for group in groups]
    sizes = [len(part) for part in numbers]
    if sizes != [len(group['params']) for group in own]:
        return f'an optimizer of {len(groups)} groups and {sum(sizes)} weights, unlike the config'
    flat = [number for part in numbers for number in part]
    names = all(isinstance(n, str) for n in flat)  # of other strategies
    if not names and not (all(type(n) is int for n in flat) and flat == list(range(len(flat)))):
        return 'an optimizer whose weights are not numbered'
    for group, other in zip(groups, own):
        lacking = [key for key in NEEDED if key in other and key not in group]
        if lacking:
            return f'the state of another optimizer (it has no {lacking[0]})'
        if any(not sound(group[key]) for key in ('lr', 'initial_lr') if key in group):
            return 'a learning rate that is none'
        odd = unlike(group, other)
        if odd:
            return f'an optimizer with {odd}'
        if not all(0 <= beta < 1 for beta in group.get('betas', ())):
            return 'an optimizer with odd betas'
        if group.get('amsgrad') != other.get('amsgrad'):
            return 'the state of another optimizer (by its amsgrad)'
    weights = [weight for group in own for weight in group['params']]
    return moments_flaw(saved.get('state'), weights, flat) or schedulers_flaw(ours, theirs)


def number_of(group: dict) -> list:
    """By what numbers, or names, a group calls its weights."""
    params = group.get('params')
    return params if isinstance(params, list) else []


def moments_flaw(states: Any, weights: List[torch.Tensor], numbers: list) -> str:
    """Say what is wrong with what an optimizer has learned of each weight."""
    if not isinstance(states, dict):
        return 'no state of the optimizer'
    usual: dict = {}  # what is known of weights, by their dimensions: Adafactor's differ
    for number, weight in zip(numbers, weights):
        if number not in states:
            continue  # it had no gradient yet
        state = states[number]
        name = f'weight {number}'
        if (
            not isinstance(state, dict)
            or state.keys() != usual.setdefault(weight.dim(), state).keys()
        ):
            return f'an optimizer whose state of {name} is none'
        step: Any = state.get('step', 1)
        step = step.item() if isinstance(step, torch.Tensor) and step.numel() == 1 else step
        if not sound(step) or not 1 <= step < 2**40 or step != int(step):
            return f'an optimizer whose steps of {name} are none'
        for key in state.keys() & MOMENTS:
            none = key == 'momentum_buffer' and state[key] is None  # of the first step
            if not none and getattr(state[key], 'shape', None) != weight.shape:
                return f'an optimizer whose {key} does not fit {name}'
    return ''


def without_state(optimizer: Any, saved: dict) -> int:
    """Number of weights that learn, and of which an optimizer with moments knows nothing."""
    count = 0
    for own, group in zip(optimizer.param_groups, saved['param_groups']):
        if 'betas' in own or own.get('momentum'):
            for weight, number in zip(own['params'], group['params']):
                count += weight.requires_grad and number not in saved['state']
    return count


def schedulers_flaw(ours: list, theirs: Any) -> str:
    """Say what keeps schedulers from going on."""
    if not isinstance(theirs, list) or len(theirs) != len(ours):
        many = len(theirs) if isinstance(theirs, list) else 'no'
        return f'{many} param_schedulers, the config {len(ours)}'
    for state, scheduler in zip(theirs, ours):
        count: Any = state.get('last_step') if isinstance(state, dict) else None
        passed = state.get('_global_step') if isinstance(state, dict) else None
        if type(count) is not int or not -1 <= count < 2**40:
            return 'a scheduler without a step'
        if type(passed) is not int or passed < count:
            return 'a scheduler that has come nowhere'
        values, bases = state.get('base_values'), getattr(scheduler, 'base_values', None)
        if bases is not None and (not isinstance(values, list) or len(values) != len(bases)):
            return 'a scheduler of another optimizer'
        own = {key: value for key, value in scheduler.state_dict().items() if value is not None}
        if own.get('param_name') != state.get('param_name'):
            return 'the state of another scheduler'
        odd = unlike(state, own)
        if odd:
            return f'a scheduler with {odd}'
    return ''


def unlike(found: dict, own: dict) -> str:
    """The first setting that is of another kind than here; '' if there is none."""
    for key in own.keys() & found.keys() - {'params'}:
        if not alike(found[key], own[key]):
            return f'an odd {key}'
    return ''


def alike(value: Any, own: Any) -> bool:
    """Whether a setting is of the kind of another: a number, a flag, a text, several of them."""
    if own is None or isinstance(own, bool):
        return value is None or isinstance(value, bool)
    if isinstance(own, (int, float)):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and not math.isnan(value)
    if isinstance(own, (list, tuple)):
        same = isinstance(value, (list, tuple)) and len(value) == len(own)
        return same and all(alike(a, b) for a, b in zip(value, own))
    return not isinstance(own, str) or isinstance(value, str)


def sound(value: Any) -> bool:
    """Tell whether a value can be a learning rate."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0
