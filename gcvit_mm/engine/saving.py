"""Checkpoints that are whole, and know their run."""

import contextlib
import os.path as osp
from typing import Any, Dict, List, Optional, Tuple

from mmengine.dist import (
    all_gather_object,
    broadcast_object_list,
    get_world_size,
    is_main_process,
)
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from ..errors import CheckpointError, UserError
from .accumulation import put_back, waiting_gradients
from .changes import images, take_changes
from .damage import CHANGES, bare, last_name, saved_numbers, start_again
from .identity import (
    Line,
    keep_own,
    line_of,
    lock_folder,
    new_start,
    read_line,
    unlock_folder,
    write_line,
)
from .plain import histories, plain
from .resuming import checkpoint_flaw, last_whole_checkpoint, restarts, state_flaw
from .seeding import PASSED
from .whole_files import BACKGROUND, RemoveLater, write_whole


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` for disks that fill up and runs that are killed.

    - A checkpoint is written beside its place and renamed when it is on the disk; old ones are
      removed after that. Training goes on meanwhile; where it fails, the next step ends the run.
    - Weights that are no longer finite are not saved.
    - ``resume=True`` resumes from the last checkpoint that is whole and of this run and model;
      others are named and passed over. A file named by ``load_from`` must be whole.
    - Every checkpoint names its run and whether its step was evaluated. Where that is due and was
      not done, the resumed run evaluates first. Files of other runs are never removed.
    - Training that torchrun has restarted goes on as with ``resume=True``; where it had saved
      nothing yet, it starts as it was started at first.
    - One run at a time trains in a folder.

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
        self._line: Line = []
        self._chosen = False
        self._steps: Dict[str, int] = {}  # done, of the checkpoint that is saved
        self._evaluated = True  # the step at hand, or evaluating is not due
        self._saved: Tuple[int, bool] = (-1, True)  # the last one saved, and what it says of that
        self._gradients: dict = {}  # that wait for an optimizer step
        self._between = ''  # a checkpoint inside an epoch, until the next one

    def before_run(self, runner: Runner) -> None:
        """Choose the checkpoint to resume from, the same one in every process.

        Raises:
            UserError: If there are checkpoints, but none to resume from, or another run trains in
                the work dir.
        """
        if not self._chosen:
            self.choose(runner, getattr(runner, 'model', None))

    def choose(self, runner: Runner, model: Any) -> None:
        """The same, where a strategy holds the model and has loaded before a run begins."""
        self._chosen = True
        with contextlib.suppress(OSError):  # of an earlier run in this process
            BACKGROUND.finish()
        training = isinstance(runner._train_loop, BaseLoop)
        again = restarts() > 0 and training
        if not (training or runner._resume):
            return
        found: List[Any] = [None, None, []]
        if is_main_process():
            try:
                if training:
                    lock_folder(runner.work_dir)
                found[2] = read_line(runner.work_dir)
                if runner._resume or again:
                    found[0] = self._choose(runner, bare(model), again, found[2])
            except UserError as error:
                found[1] = str(error)
        broadcast_object_list(found)
        if found[1]:
            raise CheckpointError(found[1])
        self._line = found[2]
        if found[0]:
            runner._load_from, runner._resume = found[0], True
        elif runner._load_from is None:
            runner._resume = False

    def _choose(self, runner: Runner, model: Any, again: bool, line: Line) -> Optional[str]:
        named, trust = runner._load_from, bool(runner.cfg.get('trust_checkpoint'))
        if again or named is None:
            found = last_whole_checkpoint(
                runner.work_dir,
                model,
                runner.logger.warning,
                line,
                self._folder(runner),
                again,
                trust,
            )
            if found or named is None or not runner._resume:
                return found
        if '://' not in named:
            flaw = checkpoint_flaw(named, model, trust)
            if flaw:
                raise CheckpointError(f'--resume: {named} {flaw}: name another checkpoint')
        return named

    def _folder(self, runner: Runner) -> str:
        """Where this run keeps its checkpoints, as mmengine names it."""
        if not self._local or self.out_dir in (None, runner.work_dir):
            return runner.work_dir
        name = osp.basename(runner.work_dir.rstrip(osp.sep))
        return self.out_dir if osp.basename(self.out_dir) == name else osp.join(self.out_dir, name)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take over from a checkpoint what is this run's own.

        Raises:
            CheckpointError: If its training state is none, or training is beyond its end there.
        """
        if not runner._resume:
            return
        path = str(runner._load_from)
        flaw = state_flaw(checkpoint) or beyond(runner, checkpoint['meta'])
        if flaw:
            raise CheckpointError(f'--resume: {path} {flaw}: name another checkpoint')
        for said in take_changes(runner, checkpoint, path):
            runner.logger.warning(said)
        meta, folder = checkpoint['meta'], self._folder(runner)
        meta.pop('config', None)  # mmengine runs it, where it has read the file itself
        line, own = line_of(meta), self._line
        inside = osp.realpath(osp.dirname(path)) == osp.realpath(folder)
        same = line[0][0] == own[0][0] if own else inside
        run = meta['run'] if isinstance(meta.get('run'), dict) else {}
        self._evaluated = run.get('evaluated') is True
        hub = checkpoint['message_hub']
        info = hub['runtime_info'] if isinstance(hub, dict) else hub.runtime_info
        if not keep_own(info, folder, same):
            self._evaluated = False
            runner.logger.warning('--resume: the best checkpoint is counted anew from here')
        if isinstance(hub, dict):
            histories(hub['log_scalars'])
            # mmengine warns of every name without a value
            kept = hub['resumed_keys'].items()
            hub['resumed_keys'] = {k: v for k, v in kept if k in info or k in hub['log_scalars']}
        self._line = new_start(line if same else [], meta['iter'])
        step = meta['epoch' if self.by_epoch else 'iter']
        self._gradients = checkpoint.get('gradients', {})
        if same and inside and osp.basename(path) == self.filename_tmpl.format(step):
            self._saved = (step, self._evaluated)
        elif same and inside and self.by_epoch and osp.basename(path).startswith('iter_'):
            self._between = path

    def before_train(self, runner: Runner) -> None:
        """Let old checkpoints be removed after the new one is saved; evaluate what was not."""
        super().before_train(runner)
        if not runner._resume:
            self._line = new_start([], 0)
        if self._local:
            self.file_backend = RemoveLater(self.out_dir, self.filename_tmpl)
            if is_main_process():
                self._write(runner, write_line, runner.work_dir, self._line)
        put_back(bare(runner.model), self._gradients)
        self._gradients = {}
        due = [not self._evaluated and evaluation_is_due(runner.train_loop, self.by_epoch)]
        broadcast_object_list(due)
        if due[0] and runner.val_loop is not None:
            runner.logger.info('--resume: evaluating the checkpoint first, which was not done')
            runner.val_loop.run()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Let a checkpoint name its run, and whether its step was evaluated."""
        meta = checkpoint.get('meta')
        if self._gradients:
            checkpoint['gradients'] = self._gradients
        if isinstance(meta, dict):
            meta.update(self._steps)  # FlexibleRunner counts one too many beside an evaluation
            line = self._line
            if len(line) > 1 and meta.get('iter') == line[-1][1]:
                line = line[:-1]  # the one that this start resumed from
            meta['run'] = dict(
                line=[list(start) for start in line],
                evaluated=self._evaluated,
                images=images(runner),
            )
        for key in ('meta', 'message_hub'):
            if key in checkpoint:
                checkpoint[key] = plain(checkpoint[key])

    def _save_checkpoint(self, runner: Runner) -> None:
        self._evaluated = False
        super()._save_checkpoint(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        """Save the best checkpoint, and say in the last one that its step was evaluated."""
        self._evaluated = True
        super().after_val_epoch(runner, metrics)
        step = runner.epoch if self.by_epoch else runner.iter
        if self._saved == (step, False):
            self._save_checkpoint_with_step(
                runner, step, dict(epoch=runner.epoch, iter=runner.iter)
            )

    def save_now(self, runner: Runner, meta: Dict[str, int], passed: int = 0) -> str:
        """Save where a run ends before its time; inside an epoch too, where mmengine does not.

        Args:
            runner: The runner.
            meta: Epochs and steps that are done.
            passed: Batches of an epoch that are, inside of one.

        Returns:
            The file.
        """
        step = meta['epoch' if self.by_epoch else 'iter']
        if passed:
            runner.message_hub.update_info(PASSED, passed)
        if passed and self.by_epoch:
            self._evaluated = True  # nothing is due here
            self._guard(runner, self._save_as, f'iter_{meta["iter"]}.pth', meta)
        elif self._saved[0] != step:
            self._evaluated = False
            self._save_checkpoint_with_step(runner, step, meta)
        self._write(runner, BACKGROUND.finish)
        return str(self.last_ckpt)

    def _save_as(self, runner: Runner, name: str, meta: Dict[str, int]) -> None:
        """Write a checkpoint and, once it is whole, that it is the last one."""
        self._steps = {key: meta[key] for key in ('epoch', 'iter') if key in meta}
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            pointer = osp.join(runner.work_dir, 'last_checkpoint')
            BACKGROUND.do(write_whole, str(self.last_ckpt).encode(), pointer)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Save where that is due; end where the last one could not be written."""
        super().after_train_iter(runner, *args, **kwargs)
        if BACKGROUND.error is not None:
            self._write(runner, BACKGROUND.finish)

    def after_train(self, runner: Runner) -> None:
        """Wait until all is written."""
        self._write(runner, BACKGROUND.finish)
        super().after_train(runner)

    def after_run(self, runner: Runner) -> None:
        """Let other runs into the folder."""
        unlock_folder(runner.work_dir)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        self._guard(runner, self._save_step, step, meta)
        self._saved = (step, self._evaluated)
        if self._between and self._local and is_main_process():
            self.file_backend.remove(self._between)
            self.file_backend.remove_now()
            self._between = ''
        if self._local:
            self.file_backend.saved.add(osp.basename(str(self.last_ckpt)))

    def _save_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Write the checkpoint of a step, and have the oldest go that is one too many."""
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:  # it may be written again
            kept, known = self.keep_ckpt_ids, [*self.keep_ckpt_ids, step]
            if len(kept) == self.max_keep_ckpts:
                oldest = self.filename_tmpl.format(kept.popleft())
                path = self.file_backend.join_path(self.out_dir, oldest)
                if is_main_process() and self.file_backend.isfile(path):
                    self.file_backend.remove(path)
                elif is_main_process() and self.file_backend.isdir(path):  # of DeepSpeed
                    self.file_backend.rmtree(path)
            kept.append(step)
            # a run that is killed before the oldest has gone removes it when it goes on
            runner.message_hub.update_info('keep_ckpt_ids', known)
        self._save_as(runner, self.filename_tmpl.format(step), meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        self._steps = dict(epoch=runner.epoch, iter=runner.iter)
        self._guard(runner, super()._save_best_checkpoint, metrics)

    def _guard(self, runner: Runner, save: Any, *args: Any) -> None:
        """Save; a full disk, or weights not worth saving, end the run with one line.

        Raises:
            UserError: In either case; the checkpoints saved before are as they were.
        """
        name = next((n for n, value in saved_numbers(runner) if not value.isfinite().all()), '')
        # parts of weights differ, and so may what processes say
        name = max(all_gather_object(name)) if get_world_size() > 1 else name
        if name:
            raise UserError(
                f'step {runner.iter + 1}: {name} is no longer finite and nothing was saved: '
                f'{start_again(runner)}, with {CHANGES}'
            )
        self._gradients = waiting_gradients(bare(runner.model), runner.optim_wrapper)
        self._write(runner, save, runner, *args)
        self._gradients = {}
        if self._local:
            self.file_backend.remove_now()

    def _write(self, runner: Runner, write: Any, *args: Any) -> None:
        try:
            BACKGROUND.finish()
            write(*args)
        except OSError as error:
            raise UserError(
                f'no checkpoint saved in {self.out_dir}: {error.strerror or error}: make space or '
                f'name another --work-dir, then --resume; {last_name(runner)} is untouched'
            ) from error


def beyond(runner: Runner, meta: dict) -> str:
    """Say that a checkpoint lies behind the end of training; '' if it does not."""
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    key, unit = ('max_epochs', 'epoch') if by_epoch else ('max_iters', 'iter')
    end = getattr(runner.train_loop, key, None)
    if end is None or meta[unit] <= end:
        return ''
    return f'is at {unit} {meta[unit]}, behind train_cfg.{key}={end}, so that nothing is trained'


def evaluation_is_due(loop: Any, by_epoch: bool) -> bool:
    """Tell whether a training loop would evaluate after the step at which it stands.

    Args:
        loop: One of mmengine's; others decide for themselves.
        by_epoch: Whether checkpoints are saved at the ends of epochs.
    """
    if isinstance(loop, EpochBasedTrainLoop):
        step, last = loop.epoch, loop.max_epochs
        if not by_epoch and loop.iter != step * len(loop.dataloader):
            return False  # in the middle of an epoch
    elif isinstance(loop, IterBasedTrainLoop):
        step, last = loop.iter, loop.max_iters
    else:
        return False
    loop._decide_current_val_interval()
    return step > 0 and step >= loop.val_begin and (step % loop.val_interval == 0 or step == last)
