"""``plan --measure``: how long a run takes on this machine."""

import copy
import itertools
import os.path as osp
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import cv2
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from ..channels_last import go_channels_last
from ..datacheck.datasets import dicts_inside, find_datasets
from ..planning.predict import Load, drawn
from ..planning.timing import Timed, pace, schedule, timed
from .devices import use_amp, use_cpu
from .terminal import device, import_quietly


def measure(cfg: Config, load: Load, steps: int, processes: int) -> Dict[str, Any]:
    """Run a few steps of a training and of its evaluation, in one process.

    Args:
        cfg: A config.
        load: What a process is given.
        steps: Steps, and batches of the evaluation, that count.
        processes: That the pictures are shared by.

    Returns:
        Seconds; those of an epoch, an evaluation and the schedule as pairs with their spread.

    Raises:
        UserError: If this machine does not have the mixed precision of the config.
    """
    cfg, on = copy.deepcopy(cfg), get_device()
    cfg.launcher = 'none'
    mixed = cfg.optim_wrapper.get('type') == 'AmpOptimWrapper'
    if mixed and (on == 'cpu' or cfg.optim_wrapper.get('dtype') == 'bfloat16'):
        use_amp(cfg, str(cfg.optim_wrapper.get('dtype', 'float16')))
    if on == 'cpu':
        use_cpu(cfg)
    torch.backends.cudnn.benchmark = bool((cfg.get('env_cfg') or {}).get('cudnn_benchmark'))
    import_quietly(cfg)
    data = at_hand(cfg)
    model = new_model(cfg, on)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)

    def batches(key: str, size: Tuple[int, int], count: int) -> Tuple[Iterator[Any], int]:
        if data:
            return read_batches(cfg, key)
        return map(copy.deepcopy, itertools.repeat(drawn(cfg, size, count, load.objects))), 0

    def train(batch: Any) -> None:
        model.train_step(batch, wrapper)

    model.train()
    found, pictures = batches('train_dataloader', load.train, load.batch)
    training = timed(train, found, steps, on, pictures)
    test = Timed([0.0, 0.0], [], 0)  # of a training without evaluation
    if cfg.get('val_dataloader'):
        model.eval()
        found, pictures = batches('val_dataloader', load.test, load.test_batch)
        with torch.no_grad():
            test = timed(model.test_step, found, steps, on, pictures)
    workers = cfg.train_dataloader.get('num_workers', 0)
    trained = pace(training, workers)
    return dict(
        device=device(1),
        pictures='the data set' if data else 'drawn, of the largest size',
        step_seconds=training.computing,
        loading_seconds=training.loading,
        images_per_second=load.batch / trained.seconds,
        waiting=trained.waiting if data else None,
        workers=workers,
        workers_needed=trained.workers,
        **schedule(cfg, load, training, test, processes),
    )


def new_model(cfg: Config, on: str) -> Any:
    """Build the model of a config for one process, with new weights, whatever it starts from."""
    settings = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor'):  # as mmengine's runner
        settings.setdefault('data_preprocessor', cfg.data_preprocessor)
    for node in dicts_inside(settings):
        node.pop('pretrained', None)
        if isinstance(node.get('init_cfg'), dict) and node['init_cfg'].get('type') == 'Pretrained':
            node.pop('init_cfg')
    init_default_scope(cfg.default_scope)
    model = revert_sync_batchnorm(MODELS.build(settings))
    model.init_weights()
    if on == 'cpu':  # as the tools do
        go_channels_last(model)
    return model.to(on)


def read_batches(cfg: Config, key: str, **changes: Any) -> Tuple[Iterator[Any], int]:
    """Batches without end that this process reads, and the pictures of the data set.

    Args:
        cfg: A config.
        key: Of the data loader.
        changes: To its settings.
    """
    settings = dict(copy.deepcopy(cfg[key]), num_workers=0, persistent_workers=False, **changes)
    for name in ('prefetch_factor', 'timeout', 'multiprocessing_context'):
        settings.pop(name, None)
    cv2.setNumThreads(0)  # as workers do
    loader = Runner.build_dataloader(settings, seed=0)
    return itertools.chain.from_iterable(itertools.repeat(loader)), len(loader.dataset)


def at_hand(cfg: Config) -> bool:
    """Whether the folders of the data are there, to train on and to evaluate on."""
    nodes = [x for key in ('train_dataloader', 'val_dataloader') for x in find_datasets(cfg, key)]
    roots = [x.get('data_root') or osp.dirname(x.get('ann_file') or '') for x in nodes]
    return bool(roots) and all(osp.isdir(root) for root in roots)


def in_words(found: Dict[str, Any], load: Dict[str, Any], processes: int) -> List[str]:
    """What was measured, for a terminal."""
    steps, loading = found['step_seconds'], found['loading_seconds']
    lines = [
        f'measured on {found["device"]}, {len(steps)} steps with pictures that are '
        f'{"from " if loading else ""}{found["pictures"]}: {min(steps):.2f} to {max(steps):.2f} s '
        f'a step, {found["images_per_second"]:.2f} images/s a process'
    ]
    if loading:
        rate = load['batch'] * len(loading) / sum(loading)
        lines.append(
            f'waiting for data: {found["waiting"]:.0%} of the time with {found["workers"]} '
            f'workers; one loads {rate:.1f} images/s, {found["workers_needed"]} keep up'
        )
    known = dict(
        epoch='an epoch takes', evaluation='an evaluation at least', whole='the whole schedule'
    )
    parts = [f'{words} {span(found[key])}' for key, words in known.items() if found[key]]
    if found['evaluations'] and not found['evaluation']:
        parts.append('evaluations are not counted: how many pictures they have is not known')
    if processes > 1:
        parts.append(f'with {processes} processes, and without what they wait for each other')
    return [*lines, ', '.join(parts)]


def span(found: Sequence[float]) -> str:
    """Seconds and their spread in words."""
    seconds, spread = found
    unit, size = 's', 1
    if seconds >= 60:
        unit, size = ('min', 60) if seconds < 7200 else ('h', 3600)
    return f'{seconds / size:.1f} {unit} (+- {spread / size:.1f})'
