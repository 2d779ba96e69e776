"""Going on from the last whole checkpoint."""

import os
import os.path as osp
import pickletools
import re
import zipfile
from typing import Any, Iterable, List, Optional

from torch.distributed import PrefixStore, TCPStore

from ..errors import CheckpointError

NUMBERED = re.compile(r'(?:iter|epoch)_(\d+)\.pth')
# What a checkpoint must hold to go on from.
TRAINING_STATE = ('meta', 'state_dict', 'message_hub', 'optimizer')


def restarts() -> int:
    """How often torchrun has restarted this process."""
    return int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0))


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


def numbered_checkpoints(folder: str) -> List[str]:
    """Checkpoints that training left in a folder, newest first.

    Args:
        folder: The folder.

    Returns:
        Paths of its ``iter_*.pth`` and ``epoch_*.pth``.
    """
    names = os.listdir(folder) if osp.isdir(folder) else []
    found = [
        (int(match.group(1)), name)
        for name in names
        for match in [NUMBERED.fullmatch(name)]
        if match
    ]
    return [osp.join(folder, name) for _, name in sorted(found, reverse=True)]


def last_name(work_dir: str) -> str:
    """What messages call the last checkpoint of a run."""
    return next(iter(numbered_checkpoints(work_dir)), 'the beginning (no checkpoint yet)')


def last_whole_checkpoint(work_dir: str, weights: Iterable[str], warn: Any) -> Optional[str]:
    """Find the last checkpoint that a run can go on from.

    Looked at are the file that ``last_checkpoint`` names, then the numbered ones, newest first.

    Args:
        work_dir: Where the run saved them.
        weights: Names of the model's weights; the checkpoint must have them.
        warn: Called with a line for every file that is passed over.

    Returns:
        Its path; None where nothing was saved yet.

    Raises:
        CheckpointError: If there are checkpoints, but none can be gone on from.
    """
    candidates = numbered_checkpoints(work_dir)
    pointer = osp.join(work_dir, 'last_checkpoint')
    if osp.isfile(pointer):
        with open(pointer, errors='replace') as file:
            named = file.read().strip()
        if named and not osp.isfile(named):  # the folder was moved
            named = osp.join(work_dir, osp.basename(named))
        if named in candidates:
            candidates.remove(named)
        if named:
            candidates.insert(0, named)
    weights = list(weights)
    flaws: List[str] = []
    for path in candidates:
        flaw = checkpoint_flaw(path, weights)
        if not flaw:
            if flaws:
                warn(f'going on from {path} instead')
            return path
        flaws.append(f'{path} {flaw}')
        warn(f'not resumed: {flaws[-1]}')
    if flaws:
        raise CheckpointError(
            f'--resume: nothing to go on from ({"; ".join(flaws)}): name a checkpoint with '
            '--resume FILE, or leave --resume out to start over'
        )
    warn(f'--resume: no checkpoint in {work_dir} yet: starting from the beginning')
    return None


def checkpoint_flaw(path: str, weights: Iterable[str] = ()) -> str:
    """Say why a checkpoint cannot be gone on from, without loading it or running what it holds.

    Args:
        path: A file.
        weights: Names of the weights it must hold.

    Returns:
        What is wrong with it, to follow its name; empty if nothing is.
    """
    if not osp.isfile(path):
        return 'does not exist'
    try:
        with zipfile.ZipFile(path) as file:
            if file.testzip():
                return 'is damaged'
            index = next((name for name in file.namelist() if name.endswith('/data.pkl')), None)
            if index is None:
                return 'is no checkpoint'
            # Strings are enough to know it by, and reading them runs nothing.
            strings = {
                text for _, text, _ in pickletools.genops(file.read(index)) if isinstance(text, str)
            }
    except (zipfile.BadZipFile, EOFError, OSError, ValueError):
        return 'is cut off, or no checkpoint'
    missing = [key for key in TRAINING_STATE if key not in strings]
    if missing:
        return f'holds no {missing[0]}, so that training cannot go on from it'
    missing = [name for name in weights if name not in strings]
    if missing:
        return f'is of another model (it has no {missing[0]})'
    return ''
