"""Whether a run fits into the memory of its GPU: before it, at its start, and when it did not."""

import json
import os
import os.path as osp
import subprocess
import sys
from typing import TYPE_CHECKING, Any, List, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.hooks import Hook

from ..errors import UserError
from ..messages import described, quiet
from ..planning.cards import GB, with_reserve
from ..processes import end_with_parent

if TYPE_CHECKING:
    from ..planning.advice import Change

LONG = 200  # characters of options that a line has room for


def gpu_memory() -> Optional[int]:
    """Bytes of the GPU of this process; None where there is none."""
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory


def compared(needed: int, room: Optional[int]) -> str:
    """What a process needs, in words.

    Args:
        needed: Bytes, with the reserve of a GPU.
        room: Bytes of the GPU; None: of none.
    """
    text = f'needs about {needed / GB:.1f} GB'
    if room is None:
        return f'{text} of a GPU'
    fits = '' if needed <= room else ': does not fit'
    return f'{text} of {room / GB:.0f} GB{fits}'


def memory_line(cfg: Config) -> str:
    """What a process of a training needs, or why that is not known; takes up to a minute."""
    try:
        with quiet():
            needed = planned(cfg)[0]
    except Exception:  # of any model; it may train all the same
        return f'what it needs of a GPU is not known: {hint(cfg)}'
    return compared(needed, gpu_memory())


class MemoryReport(Hook):
    """Says what a run needs of its GPU, once a process beside it has found out."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.process: Optional[subprocess.Popen] = None

    def before_train(self, runner: Any) -> None:
        """Begin to predict, from the config as mmengine has written it."""
        config = osp.join(runner.work_dir, osp.basename(str(runner.cfg.filename)))
        words = ['plan', config, '--gpus', str(runner.world_size), '--json']
        env = {k: v for k, v in os.environ.items() if 'RANK' not in k and 'TORCHELASTIC' not in k}
        parent = os.getpid()
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'gcvit_mm', *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=dict(env, CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1'),
            preexec_fn=lambda: end_with_parent(parent),
        )

    def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        """Say it as soon as it is known."""
        if self.process is None or self.process.poll() is None:
            return
        text, process, self.process = self.process.communicate()[0], self.process, None
        if process.returncode:  # of a model that cannot be predicted
            return
        needed, room = json.loads(text.splitlines()[-1])['needed_bytes'], gpu_memory() or 0
        line = f'memory   {compared(needed, room)}'
        if needed <= room:
            runner.logger.info(line)
        else:
            runner.logger.warning(f'{line}; {hint(runner.cfg, room)}')

    def after_train(self, runner: Any) -> None:
        """End what has not been found out."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def hint(cfg: Config, room: int = 0) -> str:
    """Where to look for more."""
    card = f' --gpu {room / GB:.0f}GB' if room else ''
    return f'python -m gcvit_mm plan {cfg.filename}{card} says more'


def out_of_memory(cfg: Config, step: int, room: int) -> UserError:
    """What to say when a training has run out of the memory of its GPU.

    Args:
        cfg: Its config.
        step: The step at which it has.
        room: Bytes of the GPU.
    """
    start = f'out of GPU memory at step {step}: '
    where = hint(cfg, room)
    try:
        with quiet():
            needed, found = planned(cfg, room)
    except Exception as error:  # of any model
        return UserError(
            f'{start}try --amp, --cfg-options model.backbone.with_cp=True or a smaller '
            f'train_dataloader.batch_size ({described(error)})'
        )
    if needed <= room:
        return UserError(
            f'{start}a process {compared(needed, room)}, so another program may hold the rest '
            f'(nvidia-smi); {where}'
        )
    best = found[-1] if found else None
    if best is None or best.peak > room:
        return UserError(f'{start}a process {compared(needed, room)}, whatever is changed; {where}')
    # those of smaller pictures name every scale
    words = best.options if len(best.options) <= LONG else f'{best.what}, after cheaper changes,'
    return UserError(
        f'{start}a process {compared(needed, room)}; {words} needs about '
        f'{best.peak / GB:.1f} GB; {where}'
    )


def planned(cfg: Config, room: Optional[int] = None) -> 'Tuple[int, List[Change]]':
    """Bytes that a process needs, and the changes after which it fits into ``room``."""
    from ..planning.advice import advise
    from ..planning.predict import find_load, predict

    load, processes = find_load(cfg), get_world_size()
    prediction = predict(cfg, load, processes=processes)
    needed = with_reserve(prediction.peak)
    if room is None or needed <= room:
        return needed, []
    return needed, advise(cfg, load, prediction, room, with_reserve, processes)
