"""Resuming from the last whole checkpoint."""

import os
import os.path as osp
import pickletools
import re
import zipfile
from typing import Any, List, Optional, Tuple

import torch
from mmengine.logging import MessageHub
from torch import nn
from torch.distributed import PrefixStore, TCPStore

from ..checkpoints import check_whole_model, read_checkpoint
from ..checkpoints.bounds import arrays
from ..errors import CheckpointError
from .identity import Line, belongs, line_of

NUMBERED = re.compile(r'(?:iter|epoch)_(\d+)\.pth')
# What a checkpoint must hold to resume from.
TRAINING_STATE = ('meta', 'state_dict', 'message_hub', 'optimizer')
MOST_STEPS = 2**40


def restarts() -> int:
    """How often torchrun has restarted this process, or Slurm the job."""
    names = ('TORCHELASTIC_RESTART_COUNT', 'SLURM_RESTART_COUNT')
    return sum(int(os.environ.get(name) or 0) for name in names)


def restart_store() -> dict:
    """Where processes that torchrun has started again find each other.

    torchrun keeps one store for all starts of a run, in which torch finds the addresses of
    processes that have died (seen with 2.11; pytorch/pytorch#135712).

    Returns:
        Arguments of ``init_process_group``; none at the first start.
    """
    env = os.environ
    if not restarts() or env.get('TORCHELASTIC_USE_AGENT_STORE') != 'True':
        return {}
    count = int(env['WORLD_SIZE'])
    shared = TCPStore(env['MASTER_ADDR'], int(env['MASTER_PORT']), count, is_master=False)
    store = PrefixStore(f'restart_{restarts()}', shared)
    return dict(store=store, rank=int(env['RANK']), world_size=count)


def number(path: str) -> int:
    """The step or epoch in the name of a checkpoint; -1 if it has none."""
    match = NUMBERED.fullmatch(osp.basename(path))
    return int(match[1]) if match else -1


def numbered_checkpoints(folder: str) -> List[str]:
    """Checkpoints that training left in a folder, newest first.

    Args:
        folder: The folder.

    Returns:
        Paths of its ``iter_*.pth`` and ``epoch_*.pth``.
    """
    names = os.listdir(folder) if osp.isdir(folder) else []
    found = sorted(((number(name), name) for name in names), reverse=True)
    return [osp.join(folder, name) for count, name in found if count >= 0]


def last_named(folder: str, work_dir: str) -> Optional[str]:
    """The checkpoint that ``last_checkpoint`` names, as a file of the run's own folder."""
    pointer = osp.join(work_dir, 'last_checkpoint')
    if not osp.isfile(pointer):
        return None
    with open(pointer, errors='replace') as file:
        name = osp.basename(file.read(4096).strip())
    return osp.join(folder, name) if name else None


def last_whole_checkpoint(
    work_dir: str,
    model: nn.Module,
    warn: Any,
    line: Optional[Line] = None,
    folder: Optional[str] = None,
    again: bool = False,
    trust: bool = False,
) -> Optional[str]:
    """Find the last checkpoint that a run can resume from.

    Looked at are the file that ``last_checkpoint`` names (those that were written after it first,
    where they are known to be this run's), then the numbered ones before it, newest first. Those of
    other runs, or of a branch that was given up, are passed over.

    Args:
        work_dir: The folder of the run.
        model: The model; the checkpoint must fit it.
        warn: Called with a line for every file that is passed over.
        line: The starts of the run, see :mod:`gcvit_mm.engine.identity`; empty if not known.
        folder: Where it saves checkpoints; the work dir by default.
        again: Whether torchrun has restarted the run, which may have saved nothing yet.
        trust: Also read files that hold Python objects, which may run code.

    Returns:
        Its path; None where nothing was saved yet.

    Raises:
        CheckpointError: If there are checkpoints, but none can be resumed from.
    """
    folder = folder or work_dir
    candidates = numbered_checkpoints(folder)
    named = last_named(folder, work_dir)
    newer: List[str] = []
    if named:
        before = number(named) if number(named) >= 0 else MOST_STEPS
        if line:  # what a run had just written when it was killed
            pointed = osp.getmtime(osp.join(work_dir, 'last_checkpoint'))
            newer = [p for p in candidates if number(p) > before and osp.getmtime(p) >= pointed]
        candidates = [*newer, named, *(path for path in candidates if number(path) < before)]
    flaws: List[str] = []
    others = 0
    for path in candidates:
        flaw, meta = judge(path, model, trust)
        if not flaw and line and not belongs(line_of(meta)[-1][0], meta['iter'], line):
            if path in newer:
                continue
            flaw = 'is of another run, or of a branch that was given up'
            others += 1
        if not flaw:
            if flaws:
                warn(f'resuming from {path} instead')
            return path
        flaws.append(f'{path} {flaw}')
        warn(f'not resumed: {flaws[-1]}')
    if flaws and not (again and others == len(flaws)):
        raise CheckpointError(
            f'--resume: nothing to resume from ({"; ".join(flaws)}): name a checkpoint with '
            '--resume FILE, or leave --resume out and name another --work-dir to start over'
        )
    warn(f'--resume: no checkpoint in {work_dir} yet: starting from the beginning')
    return None


def judge(path: str, model: Optional[nn.Module] = None, trust: bool = False) -> Tuple[str, dict]:
    """Say why a checkpoint cannot be resumed from. Nothing that it holds is run for that.

    Args:
        path: A file.
        model: What its weights must fit.
        trust: Read Python objects all the same, which may run code.

    Returns:
        What is wrong with it, to follow its name, empty if nothing is; and its ``meta``.
    """
    if osp.isdir(path):
        return 'is a folder, as DeepSpeed saves them, of which only the weights can be used', {}
    if not osp.isfile(path):
        return 'does not exist', {}
    try:
        with zipfile.ZipFile(path) as file:
            index = next((name for name in file.namelist() if name.endswith('/data.pkl')), None)
            if sum(entry.file_size for entry in file.infolist()) > osp.getsize(path):
                return 'is a compressed archive, which no training saves', {}
            if file.testzip():
                return 'is damaged', {}
            if index is None:
                return 'is no checkpoint', {}
            # Strings are enough to know it by, and reading them runs nothing.
            strings = {
                text for _, text, _ in pickletools.genops(file.read(index)) if isinstance(text, str)
            }
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError):
        return 'is cut off, or no checkpoint', {}
    missing = [key for key in TRAINING_STATE if key not in strings]
    if missing:
        return f'holds no {missing[0]}, so that training cannot resume from it', {}
    missing = [name for name in (model.state_dict() if model else ()) if name not in strings]
    if missing:
        return f'is of another model (it has no {missing[0]})', {}
    try:
        content = read_checkpoint(path, trust)
        flaw = state_flaw(content)
        if not flaw and model:
            check_whole_model(model, content, path, resume=True)
    except CheckpointError as error:
        flaw = str(error).partition(path)[2].strip()
        flaw = f'is not whole ({flaw[2:]})' if flaw.startswith(': ') else flaw
    return flaw, ({} if flaw else content['meta'])


def checkpoint_flaw(path: str, model: Optional[nn.Module] = None, trust: bool = False) -> str:
    """The first of what :func:`judge` says."""
    return judge(path, model, trust)[0]


def state_flaw(content: Any) -> str:
    """Say why training cannot resume from what a checkpoint holds beside its weights.

    Args:
        content: The checkpoint, read.

    Returns:
        What is wrong with it, to follow its name; empty if nothing is.
    """
    kinds: dict = dict(meta=dict, state_dict=dict, message_hub=(dict, MessageHub), optimizer=dict)
    for key, kind in kinds.items():
        if not isinstance(content.get(key), kind):
            return f'holds no {key}, so that training cannot resume from it'
    meta, hub = content['meta'], content['message_hub']
    for key in ('iter', 'epoch'):
        least = 1 if key == 'iter' else 0  # nothing is saved before the first step
        if type(meta.get(key)) is not int or not least <= meta[key] < MOST_STEPS:
            return f'names {str(meta.get(key))[:40]!r} as its {key}, which is no number of steps'
    seed = meta.get('seed')
    if seed is not None and (type(seed) is not int or not 0 <= seed < 2**32):
        return f'names {str(seed)[:40]!r} as its seed'
    parts = ('log_scalars', 'runtime_info', 'resumed_keys')
    if isinstance(hub, dict) and not all(isinstance(hub.get(part), dict) for part in parts):
        return 'holds a message_hub that is none'
    if isinstance(hub, dict) and any(
        type(kept) is not bool for kept in hub['resumed_keys'].values()
    ):
        return 'holds a message_hub that does not know what to keep'
    for tensor in arrays(content['optimizer']):
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
            if not tensor.isfinite().all():
                return 'holds an optimizer whose numbers are not finite'
    return ''
