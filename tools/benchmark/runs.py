"""What takes the training steps, or the evaluations, of a config, and knows their parts."""

from __future__ import annotations

import importlib.util
import time
from copy import deepcopy
from itertools import cycle
from pathlib import Path
from typing import Any, Callable, Iterator

import torch
from mmengine.config import Config
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gcvit_mm import UserError, cli
from gcvit_mm.cli.measuring import new_model, read_batches
from gcvit_mm.datacheck.datasets import SCOPES
from gcvit_mm.datacheck.folders import check_data
from gcvit_mm.messages import quiet
from gcvit_mm.planning.complexity import products_of_samples
from gcvit_mm.planning.predict import drawn
from gcvit_mm.planning.step import build_wrapper

from . import measure as benchmark
from .clock import Clock, Part, followed
from .hooks import Hooks
from .suites import Setting

OBJECTS = 7  # in a drawn picture: what pictures of COCO have on average
LOADERS = dict(training='train_dataloader', forward='val_dataloader')
ATTENTION_ON_CPUS = '_scaled_dot_product_flash_attention_for_cpu'


class Run:
    """Steps of a model on batches, one like the other.

    Args:
        model: The model.
        act: Takes a step on a batch.
        batches: Batches without end.
        reads: Whether batches are read, which is a part then, and not drawn before.
        device: 'cpu' or 'cuda'.
        wrapper: Wrapper of the optimizer of a model that trains.
        hooks: What is called around its steps.

    Attributes:
        rounds: What :meth:`timed` has measured: seconds of each part, step by step.
        results: What the last step gave.
    """

    def __init__(
        self,
        model: nn.Module,
        act: Callable[[Any], Any],
        batches: Iterator[Any],
        reads: bool,
        device: str,
        wrapper: Any = None,
        hooks: Hooks | None = None,
    ) -> None:
        self.model, self.act, self.batches = model, act, batches
        self.reads, self.device, self.wrapper, self.hooks = reads, device, wrapper, hooks
        self.rounds: list[dict[Part, float]] = []
        self.results: Any = None

    def step(self) -> None:
        """Take a step as it is."""
        self.results = self.act(next(self.batches))

    def timed(self) -> None:
        """Take a step, and time its parts."""
        self.rounds.append(self.by_part(self.now))

    def now(self) -> float:
        """Seconds, after all that the device was given to do."""
        benchmark.synchronize(self.device)
        return time.perf_counter()

    def gmacs(self) -> dict[Part, float]:
        """Take a step, and count the GMACs of its parts, with those that are repeated."""
        with FlopCounterMode(display=False, custom_mapping=formulas()) as counter:
            return self.by_part(lambda: counter.get_total_flops() / 2e9)

    def by_part(self, read: Callable[[], float]) -> dict[Part, float]:
        """Take a step, and share out among its parts what it lets grow."""
        clock = Clock(read)
        fetch = clock.follow(next, 'data') if self.reads else next
        with followed(clock, self.model, self.wrapper, self.hooks):
            self.results = self.act(fetch(self.batches))
        return dict(clock.spent)


# ---------------------------------------------------------------- multiply-accumulates
def formulas() -> dict:
    """Operations that torch's ``FlopCounterMode`` does not know, and what counts them."""
    aten = torch.ops.aten
    found = {aten.grid_sampler_2d: products_of_samples}
    for name, formula in (
        (ATTENTION_ON_CPUS, products_of_attention),
        (f'{ATTENTION_ON_CPUS}_backward', products_of_its_gradient),
    ):
        if hasattr(aten, name):  # torch 2.1 has other names, and counts them
            found[getattr(aten, name)] = formula
    return found


def products_of_attention(q: Any, k: Any, *args: Any, **kwargs: Any) -> int:
    """Products and sums of queries (B, heads, N, d) and keys and values (B, heads, M, d)."""
    # newer releases of torch hand over shapes
    (b, heads, n, d), (_, _, m, _) = (getattr(x, 'shape', x) for x in (q, k))
    return 2 * 2 * b * heads * n * m * d


def products_of_its_gradient(grad: Any, q: Any, k: Any, *args: Any, **kwargs: Any) -> int:
    """Those of the backward pass: five products, as the weights are computed again."""
    return products_of_attention(q, k) // 2 * 5


# ---------------------------------------------------------------- what runs
def read_config(path: str, cfg_options: dict | None, data_root: str | None) -> Config:
    """Read a config that trains; ``LIBRARY::NAME`` is one of a library's.

    Args:
        path: File or name.
        cfg_options: Changes to it.
        data_root: Folder of its data, if pictures are to be read.

    Raises:
        UserError: If it is not there, does not train, or its data is not there.
    """
    library, _, name = path.partition('::')
    if name:
        if library not in SCOPES:
            raise UserError(f'{path}: libraries with configs are {", ".join(SCOPES)}')
        cli.need_package(path, library, library)
        # mmengine.hub.get_config installs what it takes for a missing package
        spec = importlib.util.find_spec(library)
        file = Path((spec and spec.origin) or '').parent / '.mim/configs' / name
        if not file.is_file():
            raise UserError(f'{path} is not there: {library} has not installed it')
        cfg = cli.load_config(str(file))
    else:
        cfg = cli.load_config(path, cfg_options)
    for key in ('model', 'optim_wrapper', *LOADERS.values()):
        if not cfg.get(key):
            raise UserError(f'{path} has no {key}, which --step needs')
    if cfg.get('default_scope') not in SCOPES or 'backbone' not in cfg.model:
        raise UserError(f'{path} is no config of a detector, segmentor or classifier')
    if cfg.model.backbone.get('compile'):
        raise UserError(f'{path}: parts are timed of eager models only: leave compile out')
    if data_root:
        cli.replace_data_root(cfg, data_root)
        check_data(cfg, *LOADERS.values())
    return cfg


def make_run(cfg: Config, mode: str, sizes: list | None, batch: int, setting: Setting) -> Run:
    """Build what takes the steps of a config; of training ones the rate of learning is 0.

    Args:
        cfg: The config.
        mode: 'training', or 'forward' for evaluations.
        sizes: Heights and widths of pictures that are drawn, one a step; ``None`` reads real ones.
        batch: Number of pictures of a step.
        setting: Device and precision.
    """
    torch.manual_seed(0)
    if setting.device == 'cpu':
        cfg = deepcopy(cfg)
        cfg.launcher = 'none'
        cli.use_cpu(cfg)  # as the tools do
    with quiet():
        model = new_model(cfg, setting.device)
        if sizes is None:
            batches, _ = read_batches(cfg, LOADERS[mode], batch_size=batch)
        else:
            batches = cycle([drawn(cfg, size, batch, OBJECTS) for size in sizes])
    reads, device = sizes is None, setting.device
    dtype = None if setting.dtype == 'fp32' else benchmark.DTYPES[setting.dtype]
    if mode == 'training':
        model.train()
        mixed = {} if dtype is None else cli.amp_settings(str(dtype).split('.')[-1], device)
        wrapper = build_wrapper(cfg.optim_wrapper, model, **mixed)
        stand_still(wrapper.optimizer)
        with quiet():
            hooks = Hooks(cfg, model, wrapper)

        def train(data: Any) -> Any:
            hooks.call('before_train_iter', data_batch=data)
            losses = model.train_step(data, wrapper)
            hooks.call('after_train_iter', data_batch=data, outputs=losses)
            stand_still(wrapper.optimizer)
            return losses

        return Run(model, train, batches, reads, device, wrapper, hooks)
    model.eval()

    def evaluate(data: Any) -> Any:
        with torch.no_grad(), torch.autocast(device, dtype, enabled=dtype is not None):
            return model.val_step(data)

    let_objects_pass(model, lambda: evaluate(next(batches)))
    return Run(model, evaluate, batches, reads, device)


def stand_still(optimizer: Any) -> None:
    """Set the rate of learning to 0, so that all steps compute the same."""
    for group in optimizer.param_groups:
        group['lr'] = 0.0


def let_objects_pass(model: Any, evaluate: Callable[[], Any]) -> None:
    """Lower the threshold of scores of a detector to that of the last object that it may keep.

    New weights give no class a score that passes, and without objects nothing is done for their
    masks. So a picture has as many objects as the config allows.
    """
    head = getattr(model, 'roi_head', None) or getattr(model, 'bbox_head', None)
    settings = getattr(head, 'test_cfg', None) or {}
    if 'score_thr' in settings:
        settings['score_thr'] = 0.0
        scores = evaluate()[0].pred_instances.scores
        if len(scores):
            settings['score_thr'] = 0.999 * float(scores.min())
