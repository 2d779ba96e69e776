"""What a run says on the terminal; its log file has everything that the libraries say."""

import atexit
import contextlib
import importlib
import io
import logging
import re
import shlex
import sys
import time
import warnings
from typing import Any, Dict, Optional

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..datacheck.datasets import SCOPES
from ..planning.complexity import count_parameters
from .allocation import keep_memory
from .tables import Evaluation

# What only the log file keeps: the machine, the config, the hooks, the rate of each parameter,
# what mmengine warns its own callers of, and tables of metrics, as one is shown at the end.
UNSHOWN = re.compile(
    r'\n-+\nSystem environment|Config:\n|Hooks will be executed|paramwise_options|'
    r'"FileClient" will be|"HardDiskBackend" is|The prefix is not set in metric|'
    r'Distributed training is not used|Exp name: |'
    r'Please make sure that the mlflow server|'
    r'per class results:|\n\+-|\w+_mAP_copypaste'
)

# What the bar says.
PROGRESS = re.compile(r'(Iter|Epoch)\((train\)|.*eta:)')


def import_quietly(cfg: Config) -> None:
    """Import the library of a config without its words on what nobody asked for."""
    for words in ('Default ``avg_non_ignore``', 'The draw is False', 'faster_coco_eval is not'):
        warnings.filterwarnings('ignore', words)
    if cfg.get('default_scope') in SCOPES:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(ImportError):
            importlib.import_module(f'{cfg.default_scope}.datasets')
            importlib.import_module(f'{cfg.default_scope}.evaluation')
    if 'pycocotools.coco' in sys.modules:  # four lines for every file
        vars(sys.modules['pycocotools.coco'])['print'] = lambda *words: None


class Brief:
    """Part of a runner whose logger shows on the terminal what concerns the run."""

    def build_logger(self, *args: Any, **kwargs: Any) -> Any:
        """Build mmengine's logger."""
        logger = super().build_logger(*args, **kwargs)  # type: ignore[misc]
        for handler in terminals(logger):
            handler.addFilter(lambda record: not UNSHOWN.match(record.getMessage()))
        return logger


def terminals(logger: Any) -> list:
    """Handlers of a logger that write to a terminal, or to what stands for one."""
    return [handler for handler in logger.handlers if type(handler) is logging.StreamHandler]


class RunReport(Hook):
    """Says in five lines what is run, before it runs; after it a table, and what to do next.

    Training ends with the table of the evaluation that its best checkpoint comes from.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.evaluation, self.table = Evaluation(()), ''
        self.best: Optional[str] = None

    def before_train(self, runner: Any) -> None:
        """Say it of training."""
        self.say(runner, training=True)
        self.best = runner.message_hub.runtime_info.get('best_ckpt')
        self.watch(runner, runner.val_loop)

    def before_test(self, runner: Any) -> None:
        """Say it of a test."""
        self.say(runner, training=False)
        self.watch(runner, runner.test_loop)

    def watch(self, runner: Any, loop: Any) -> None:
        """Have what the metrics of a loop compute at hand."""
        metrics = getattr(getattr(loop, 'evaluator', None), 'metrics', ())
        self.evaluation = Evaluation(metrics, bool(runner.cfg.get('fast_eval')))

    def after_val_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """Keep the table of the best evaluation; of the last one where none is the best."""
        table = self.evaluation.table(metrics)
        best = runner.message_hub.runtime_info.get('best_ckpt')
        if table and (best != self.best or not best or not self.table):
            self.best = best
            steps = isinstance(runner.train_loop, IterBasedTrainLoop)
            when = f'iteration {runner.iter}' if steps else f'epoch {runner.epoch}'
            self.table = f'evaluation at {when}:\n{table}'

    def after_test_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """Show the table of the test."""
        table = self.evaluation.table(metrics)
        if table:
            runner.logger.info(f'test:\n{table}')

    def say(self, runner: Any, training: bool) -> None:
        """Write the lines into the log."""
        lines = dict(**described(runner, training), device=device(runner.world_size))
        for name, text in dict(lines, results=runner.work_dir).items():
            runner.logger.info(f'{name:<9}{text}')

    def after_train(self, runner: Any) -> None:
        """Show the table, the best checkpoint, or else the last one, and what to type next."""
        if self.table:
            runner.logger.info(self.table)
        kept = runner.message_hub.runtime_info
        path = kept.get('best_ckpt') or kept.get('last_ckpt')
        if path:
            runner.logger.info(f'{"best" if kept.get("best_ckpt") else "last":<9}{path}')
            say_next(runner, runner.cfg.filename, path)


def say_next(runner: Any, *model: str) -> None:
    """Say what to type to predict with a config and a checkpoint, or with an exported file."""
    words = ' '.join(shlex.quote(word) for word in model)
    runner.logger.info(f'{"next":<9}python tools/predict.py {words} IMAGES --out-dir drawn')


def described(runner: Any, training: bool) -> Dict[str, str]:
    """Model, data and schedule of a run.

    Args:
        runner: Its runner, whose loops are built.
        training: Whether it trains, and not tests.
    """
    model = runner.model
    while hasattr(model, 'module'):
        model = model.module
    backbone = getattr(model, 'backbone', None)
    on = f' on {type(backbone).__name__}' if backbone is not None else ''
    loop = runner.train_loop if training else runner.test_loop
    dataset = loop.dataloader.dataset
    data = f'{len(dataset)} images to {"train" if training else "test"} on'
    if training and runner.val_loop is not None:
        data += f', {len(runner.val_loop.dataloader.dataset)} to evaluate on'
    classes = getattr(dataset, 'metainfo', {}).get('classes')
    data += f', {len(classes)} classes' if classes else ''
    lines = dict(
        model=f'{type(model).__name__}{on}, {count_parameters(model) / 1e6:.2f} M parameters',
        data=data,
    )
    if training:
        size = runner.cfg.train_dataloader.get('batch_size')
        each = f'{runner.world_size} x {size}' if runner.world_size > 1 else str(size)
        epochs = '' if isinstance(loop, IterBasedTrainLoop) else f'{loop.max_epochs} epochs, '
        lines['schedule'] = f'{epochs}{loop.max_iters} iterations of {each} images'
    return lines


def losses(outputs: Any) -> list:
    """Names and values of the numbers that a step gave."""
    items = outputs.items() if isinstance(outputs, dict) else ()
    tensors = [(key, value) for key, value in items if isinstance(value, torch.Tensor)]
    return [(key, value.detach()) for key, value in tensors if value.numel() == 1]


def device(processes: int) -> str:
    """What computes, and in how many processes."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    else:
        threads = torch.get_num_threads()
        name = f'CPU, {threads} thread{"s" if threads > 1 else ""}'
        name += ', freed memory is kept' if keep_memory() else ''
    return f'{processes} x {name}' if processes > 1 else name


class ProgressBar(Hook):
    """A line that moves at every step: losses, images a second, time left.

    It takes the place of the lines of training on the terminal; the log file keeps them.

    Args:
        console: Where it is drawn.
    """

    priority = 'LOWEST'

    def __init__(self, console: Optional[Console] = None) -> None:
        self.console = console
        self._bar: Optional[Progress] = None
        self._tasks: Dict[str, Any] = {}
        self._last = time.perf_counter()

    def before_train(self, runner: Any) -> None:
        """Begin where training stands."""
        self._start(runner)
        self._add('train', runner.train_loop.max_iters, runner.iter)
        self._last = time.perf_counter()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """One step further."""
        now = time.perf_counter()
        inputs = data_batch.get('inputs', ()) if isinstance(data_batch, dict) else ()
        images = len(inputs) * runner.world_size
        said = [f'{key} {float(value):.3g}' for key, value in losses(outputs)][:4]
        said.append(f'{images / max(now - self._last, 1e-6):.1f} images/s')
        self._last = now
        self._move('train', runner.iter + 1, '  '.join(said))

    def before_val_epoch(self, runner: Any) -> None:
        """Begin an evaluation."""
        self._add('evaluate', len(runner.val_loop.dataloader), 0)

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """One batch further."""
        self._move('evaluate', batch_idx + 1)

    def after_val_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """End it."""
        if self._bar is not None:
            self._bar.remove_task(self._tasks.pop('evaluate'))
        self._last = time.perf_counter()

    def before_test_epoch(self, runner: Any) -> None:
        """Begin a test."""
        self._start(runner)
        self._add('test', len(runner.test_loop.dataloader), 0)

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """One batch further."""
        self._move('test', batch_idx + 1)

    def after_test_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """Leave the terminal to the result."""
        self.after_run(runner)

    def after_run(self, runner: Any) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            for handler in terminals(runner.logger):
                handler.setStream(sys.stdout)

    def _start(self, runner: Any) -> None:
        if self._bar is None:
            self._bar = Progress(
                TextColumn('{task.description}'),
                BarColumn(bar_width=20),
                TextColumn('{task.completed}/{task.total}'),
                TimeRemainingColumn(elapsed_when_finished=True),
                TextColumn('{task.fields[said]}'),
                console=self.console or Console(),
                speed_estimate_period=300,
            )
            self._bar.start()  # what is printed from now on appears above it
            atexit.register(self._bar.stop)  # an error leaves the cursor where it was
            for handler in terminals(runner.logger):
                handler.setStream(sys.stdout)
                handler.addFilter(lambda record: not PROGRESS.match(record.getMessage()))

    def _add(self, name: str, total: int, done: int) -> None:
        if self._bar is not None:
            self._tasks[name] = self._bar.add_task(name, total=total, completed=done, said='')

    def _move(self, name: str, done: int, said: str = '') -> None:
        if self._bar is not None and name in self._tasks:
            self._bar.update(self._tasks[name], completed=done, said=said)
