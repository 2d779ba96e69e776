"""Checkpoints that are whole, and going on from the last whole one."""

import os
import os.path as osp
import pickletools
import re
import zipfile
from typing import Any, Iterable, List, Optional, Tuple

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner
from torch.distributed import PrefixStore, TCPStore

from ..errors import CheckpointError, UserError

# What is being written, until it is whole. One name, so that killed runs leave one file at most.
UNFINISHED = 'unfinished.tmp'
NUMBERED = re.compile(r'(?:iter|epoch)_(\d+)\.pth')
# What a checkpoint must hold to go on from.
TRAINING_STATE = ('meta', 'state_dict', 'message_hub', 'optimizer')


def write_whole(data: bytes, path: str) -> None:
    """Write a file so that its name never stands for a part of it, whenever the run ends.

    Args:
        data: What to write.
        path: Where to; a file of that name is replaced once the new one is on the disk.

    Raises:
        OSError: If it cannot be written, e.g. for want of space; nothing has changed then.
    """
    folder = osp.dirname(osp.abspath(path))
    os.makedirs(folder, exist_ok=True)
    unfinished = osp.join(folder, UNFINISHED)
    try:
        with open(unfinished, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError:
        if osp.exists(unfinished):
            os.remove(unfinished)
        raise
    if os.name == 'posix':  # the new name itself
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@register_backend('whole_files', force=True)
class WholeFileBackend(LocalBackend):
    """mmengine's backend of local files, which writes them whole or not at all."""

    def put(self, obj: bytes, filepath: Any) -> None:
        """Write bytes, see :func:`write_whole`."""
        write_whole(obj, str(filepath))


class _RemoveLater(LocalBackend):
    """A backend that removes files when told to and not before: first save, then remove."""

    def __init__(self) -> None:
        self.waiting: List[Tuple[str, int]] = []

    def remove(self, filepath: Any) -> None:
        self.waiting.append((str(filepath), os.stat(filepath).st_ino))

    def remove_now(self) -> None:
        for path, inode in self.waiting:
            if osp.exists(path) and os.stat(path).st_ino == inode:  # not written anew since
                os.remove(path)
        self.waiting.clear()


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` for disks that fill up and runs that are killed.

    - A checkpoint is written beside its place and renamed when it is on the disk; old ones are
      removed after that, and ``last_checkpoint`` is written last.
    - Weights that are no longer finite are not saved.
    - ``resume=True`` goes on from the last checkpoint that is whole and of this model; damaged
      ones are named and passed over. A file named by ``load_from`` must be whole.
    - Training that torchrun has restarted goes on as with ``resume=True``; where it had saved
      nothing yet, it starts as it was started at first.

    Args:
        kwargs: Those of ``CheckpointHook``. Files go through ``WholeFileBackend`` unless
            ``backend_args``, ``file_client_args`` or an ``out_dir`` elsewhere ask for another.
    """

    def __init__(self, **kwargs: Any) -> None:
        elsewhere = kwargs.get('backend_args') or kwargs.get('file_client_args')
        self._local = not elsewhere and '://' not in str(kwargs.get('out_dir'))
        if self._local:
            kwargs['backend_args'] = dict(backend='whole_files')
        super().__init__(**kwargs)

    def before_run(self, runner: Runner) -> None:
        """Choose the checkpoint to go on from, the same one in every process.

        Raises:
            UserError: If there are checkpoints, but none to go on from.
        """
        again = restarts() > 0 and isinstance(runner._train_loop, BaseLoop)  # it is to train
        if not (runner._resume or again):
            return
        found: List[Any] = [None, None]
        if is_main_process():
            try:
                found[0] = self._choose(runner, again)
            except UserError as error:
                found[1] = str(error)
        broadcast_object_list(found)
        if found[1]:
            raise CheckpointError(found[1])
        if found[0]:
            runner._load_from, runner._resume = found[0], True

    def _choose(self, runner: Runner, again: bool) -> Optional[str]:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        weights = list(model.state_dict())
        named = runner._load_from
        if again or named is None:
            found = last_whole_checkpoint(runner.work_dir, weights, runner.logger.warning)
            if found or named is None or not runner._resume:
                return found
        if '://' not in named:
            flaw = checkpoint_flaw(named, weights)
            if flaw:
                raise CheckpointError(f'--resume: {named} {flaw}: name another checkpoint')
        return named

    def before_train(self, runner: Runner) -> None:
        """Let old checkpoints be removed after the new one is saved."""
        super().before_train(runner)
        if self._local:
            self.file_backend = _RemoveLater()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        self._guard(runner, super()._save_checkpoint_with_step, step, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        self._guard(runner, super()._save_best_checkpoint, metrics)

    def _guard(self, runner: Runner, save: Any, *args: Any) -> None:
        """Save; a full disk, or weights not worth saving, end the run with one line.

        Raises:
            UserError: In either case; the checkpoints saved before are as they were.
        """
        name = next((n for n, p in runner.model.named_parameters() if not p.isfinite().all()), None)
        if name:
            raise UserError(
                f'step {runner.iter + 1}: {name} is no longer finite and nothing was saved: go on '
                f'from {last_name(runner.work_dir)} with a lower learning rate, clip_grad, or '
                'bfloat16 or float32 instead of float16'
            )
        try:
            save(runner, *args)
        except OSError as error:
            raise UserError(
                f'no checkpoint saved in {self.out_dir}: {error.strerror or error}: make space or '
                f'name another --work-dir, then --resume; {last_name(runner.work_dir)} is untouched'
            ) from error
        if self._local:
            self.file_backend.remove_now()


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


def check_strategy(cfg: Config) -> None:
    """Check that a run whose checkpoints mmengine cannot go on from is not asked to.

    Raises:
        UserError: If a run with a strategy is to be resumed, or may be restarted.
    """
    again = cfg.get('resume') or int(os.environ.get('TORCHELASTIC_MAX_RESTARTS', 0))
    if 'runner_type' in cfg and again:
        raise UserError(
            '--resume, MAX_RESTARTS: mmengine cannot go on with a strategy: start from the weights '
            'with --cfg-options load_from=CHECKPOINT'
        )


def check_restarts(cfg: Config) -> None:
    """Check that a run which torchrun may restart will know its own checkpoints.

    Raises:
        UserError: If the last checkpoint of its work dir is not where it starts from.
    """
    last = next(iter(numbered_checkpoints(cfg.work_dir)), None)
    if not int(os.environ.get('TORCHELASTIC_MAX_RESTARTS', 0)) or last is None:
        return
    named = cfg.get('load_from')
    if not cfg.get('resume') or (named and osp.realpath(named) != osp.realpath(last)):
        raise UserError(
            f'MAX_RESTARTS: a restart would go on from {last}, but the run starts elsewhere: '
            '--resume without a file, or another --work-dir'
        )


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
