"""Checkpoints that are whole."""

import os
import os.path as osp
from typing import Any, List, Optional, Tuple

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner

from ..errors import CheckpointError, UserError
from .resuming import checkpoint_flaw, last_name, last_whole_checkpoint, restarts

# What is being written, until it is whole. One name, so that killed runs leave one file at most.
UNFINISHED = 'unfinished.tmp'


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
