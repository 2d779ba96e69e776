"""Numbers that are no longer finite: finding them, and what to resume from."""

import contextlib
from typing import Any, Iterator, Optional, Tuple

import numpy as np
import torch
from mmengine.model import is_model_wrapper
from torch import nn

from ..checkpoints.bounds import arrays
from .identity import belongs, line_of, read_line
from .resuming import judge, numbered_checkpoints
from .whole_files import BACKGROUND

RECENT = 1000  # losses that are looked at
RISEN = 10  # times the low ones of these: that is more than noise


def last_own(runner: Any, before: Optional[int] = None) -> str:
    """The newest checkpoint of the run in a folder; '' if there is none.

    Args:
        runner: The runner.
        before: A step; only what was saved there or earlier counts.
    """
    with contextlib.suppress(OSError):
        BACKGROUND.finish()
    hooks = [hook for hook in getattr(runner, 'hooks', []) if getattr(hook, 'filename_tmpl', None)]
    folder = next((hook.out_dir for hook in hooks if hook.out_dir), runner.work_dir)
    line = read_line(runner.work_dir)
    for path in numbered_checkpoints(folder):
        if not line:  # nobody can tell
            return path
        flaw, meta = judge(path, trust=bool(runner.cfg.get('trust_checkpoint')))
        own = not flaw and belongs(line_of(meta)[-1][0], meta['iter'], line)
        if own and (before is None or meta['iter'] <= before):
            return path
    return ''


def last_name(runner: Any) -> str:
    """What messages call the last checkpoint of a run."""
    return last_own(runner) or 'the beginning (no checkpoint yet)'


def last_sound_step(runner: Any) -> Optional[int]:
    """The last step whose weights gave a loss as low as usual in the next step.

    Weights may be lost long before a loss is infinite. None where losses are not recorded.
    """
    buffer = runner.message_hub.log_scalars.get('train/loss') if hasattr(runner, 'cfg') else None
    losses = np.asarray(buffer.data[0][-RECENT:], float) if buffer is not None else np.zeros(0)
    finite = losses[np.isfinite(losses)]
    if not finite.size:
        return None
    usual = np.quantile(finite, 0.02)  # however much of it is rising
    low = np.flatnonzero(np.isfinite(losses) & (losses <= usual + (RISEN - 1) * abs(usual)))
    return runner.iter + 1 - (len(losses) - 1 - int(low[-1])) - 1


def start_again(runner: Any) -> str:
    """What to resume from after a loss or a weight was not finite."""
    path = last_own(runner, last_sound_step(runner))
    if path:
        return f'go on with --resume {path}'
    used = last_own(runner)
    return 'start again from the beginning' + (', in another --work-dir' if used else '')


# What to change in either case.
CHANGES = (
    'a lower learning rate (--cfg-options optim_wrapper.optimizer.lr=...), clip_grad, or bfloat16 '
    'or float32 instead of float16'
)


def bare(model: Any) -> nn.Module:
    """A model without what wraps it for several processes."""
    return model.module if is_model_wrapper(model) else model


def saved_numbers(runner: Any) -> Iterator[Tuple[str, torch.Tensor]]:
    """What must be finite to be saved: weights, statistics, and the state of the optimizer."""
    for name, value in (*runner.model.named_parameters(), *runner.model.named_buffers()):
        if value.is_floating_point():
            yield name, value.to_local() if hasattr(value, 'to_local') else value
    optimizer = getattr(runner.optim_wrapper, 'optimizer', None)  # of several: weights only
    for value in arrays(list(getattr(optimizer, 'state', {}).values())):
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            local = value.to_local() if hasattr(value, 'to_local') else value
            yield 'the state of the optimizer', local
