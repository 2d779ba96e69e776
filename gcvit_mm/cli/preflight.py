"""What is looked at before a run starts, in one place and once a machine."""

import argparse
import os
import os.path as osp
import tempfile

import torch
from mmengine.config import Config

from .. import backbones
from ..checkpoints import local_path, pretrained_cfg
from ..datacheck.check import check_classes
from ..datacheck.folders import check_data
from ..engine.resuming import numbered_checkpoints, restarts
from ..errors import CheckpointError, UserError
from .config import replace_data_root
from .devices import check_devices, local_rank, use_cpu

# Strategies that a run can go on with.
RESUMED = (
    'DDPStrategy',
    'gcvit_mm.engine.strategies.FullyShardedStrategy',
    'gcvit_mm.engine.zero.ZeroStrategy',
)


def prepare(cfg: Config, args: argparse.Namespace) -> None:
    """Apply the arguments of :func:`add_run_arguments` and fit the config to this machine.

    Raises:
        UserError: If there are more processes than GPUs, or the data is missing.
    """
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif not cfg.get('work_dir'):
        cfg.work_dir = osp.join('work_dirs', osp.splitext(osp.basename(args.config))[0])
    cfg.launcher = args.launcher
    if args.local_rank is not None:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if args.data_root:
        replace_data_root(cfg, args.data_root)
    check_devices()
    if not torch.cuda.is_available():
        use_cpu(cfg)


def preflight(cfg: Config, *loaders: str, training: bool = False) -> None:
    """Look at everything that can end a run in its first minutes.

    One process a machine looks, and downloads the weights that a backbone starts from; the others
    go on and wait for it, at the file that it downloads or when they join their group. A launcher
    ends them where it fails. A run that resumes from a checkpoint asks for no such weights.

    Args:
        cfg: The config, after :func:`prepare`.
        loaders: Which of its dataloaders the run will read.
        training: Whether it will train.

    Raises:
        UserError: With what does not fit; the message names it and the fix.
    """
    first = local_rank() == 0
    if loaders and not cfg.get(loaders[0]):  # trainings need not evaluate
        raise UserError(
            f'{cfg.filename} has no {loaders[0]}: give one of the files beside _base_, or begin '
            'with configs/templates (docs/own_data.md)'
        )
    if first and training:
        check_strategy(cfg)
        check_restarts(cfg)
        check_unused(cfg)
    if first:
        check_writable(cfg.work_dir)
        check_data(cfg, *loaders)
    if training:
        fetch_pretrained(cfg)
    if first:
        check_classes(cfg, *loaders)


def check_file(path: str, what: str) -> None:
    """Check that a file named on the command line exists.

    Raises:
        UserError: If it does not.
    """
    if osp.isdir(path):
        raise UserError(f'{what} {path} is a folder: name a file in it')
    if '://' not in path and not osp.isfile(path):
        raise UserError(f'{what} {path} does not exist: check the path')


def fetch_pretrained(cfg: Config) -> None:
    """Have the weights at hand that a backbone of this package starts from.

    Those of a run that resumes from a checkpoint are taken out of the config.

    Raises:
        UserError: If ``init_cfg`` is no such thing.
        CheckpointError: If the file is missing, or cannot be downloaded.
    """
    backbone = cfg.model.get('backbone') or {}
    cls = getattr(backbones, str(backbone.get('type')), None)
    if cls is None:
        return
    try:
        source = pretrained_cfg(backbone.get('init_cfg')).get('checkpoint')
    except TypeError as error:
        raise UserError(f'config: model.backbone.{error}') from error
    if not source:
        return
    saved = bool(numbered_checkpoints(cfg.work_dir))
    if (cfg.get('resume') and (saved or cfg.get('load_from'))) or (restarts() and saved):
        cfg.model.backbone.init_cfg = None
        return
    try:
        local_path(source)
    except CheckpointError as error:
        raise CheckpointError('; '.join(filter(None, [str(error), cls.weights_note]))) from error


def check_strategy(cfg: Config) -> None:
    """Check that a run whose checkpoints mmengine cannot resume from is not asked to.

    Raises:
        UserError: If a run with a strategy is to be resumed, or may be restarted.
    """
    again = cfg.get('resume') or int(os.environ.get('TORCHELASTIC_MAX_RESTARTS', 0))
    name = str((cfg.get('strategy') or {}).get('type'))
    if 'runner_type' in cfg and again and name not in RESUMED:
        raise UserError(
            f'--resume, MAX_RESTARTS: mmengine cannot go on with a {name}: use that of '
            'configs/strategies/fsdp.py or deepspeed.py, or start from the weights with '
            '--cfg-options load_from=CHECKPOINT'
        )


def check_restarts(cfg: Config) -> None:
    """Check that a run which torchrun may restart will know its own checkpoints.

    Raises:
        UserError: If the last checkpoint of its work dir is not where it starts from.
    """
    last = next(iter(numbered_checkpoints(cfg.work_dir)), None)
    if not int(os.environ.get('TORCHELASTIC_MAX_RESTARTS', 0)) or last is None or restarts():
        return
    named = cfg.get('load_from')
    if not cfg.get('resume') or (named and osp.realpath(named) != osp.realpath(last)):
        raise UserError(
            f'MAX_RESTARTS: a restart would resume from {last}, but the run starts elsewhere: '
            '--resume without a file, or another --work-dir'
        )


def check_unused(cfg: Config) -> None:
    """Check that a run starts anew where no checkpoints are, and resumes where there are some.

    One that a launcher has started again may have saved nothing yet.

    Raises:
        UserError: If there are some in its work dir, or none to resume from.
    """
    last = next(iter(numbered_checkpoints(cfg.work_dir)), None)
    named = cfg.get('load_from') or osp.exists(osp.join(cfg.work_dir, 'last_checkpoint'))
    if cfg.get('resume') and not (last or named or restarts()):
        raise UserError(
            f'--resume: {cfg.work_dir} has no checkpoint: leave --resume out to begin, or name '
            'another --work-dir, or a checkpoint with --resume FILE'
        )
    if last and not cfg.get('resume') and not restarts():
        raise UserError(
            f'{last} is of an earlier run, whose files a new one would replace: --resume to go on '
            'with that, or name another --work-dir'
        )


def check_writable(folder: str) -> None:
    """Check that there is room for files in a folder, which may not be there yet.

    Raises:
        UserError: If nothing can be written.
    """
    place = osp.abspath(folder)
    if osp.isfile(place):
        raise UserError(f'--work-dir {folder} is a file: name a folder')
    while not osp.exists(place) and osp.dirname(place) != place:
        place = osp.dirname(place)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(1 << 16))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f'--work-dir {folder} cannot be written ({error.strerror or error}): make space, or '
            'name another folder'
        ) from error
