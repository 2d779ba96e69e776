"""Starting runs: what tools/train.py, tools/test.py and tools/predict.py share."""

import argparse
import difflib
import os
import os.path as osp
import sys
from typing import Any, Callable, Iterator, Optional

import torch
from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from .. import backbones
from ..checkpoints import local_path
from ..errors import CheckpointError, UserError

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')
# The default hooks that mmengine's runner adds by itself.
MMENGINE_HOOKS = (
    'runtime_info',
    'timer',
    'sampler_seed',
    'logger',
    'param_scheduler',
    'checkpoint',
)
# mmpretrain's data sets whose classes are the folders they lie in, unless a list is given.
CLASS_FOLDER_DATASETS = ('ImageNet', 'CustomDataset')


def run_tool(main: Callable[[], None]) -> None:
    """Run the main function of a tool; bad input ends it with one line and status 2."""
    try:
        main()
    except UserError as error:
        print(f'error: {error}', file=sys.stderr, flush=True)
        sys.exit(2)
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr, flush=True)
        sys.exit(130)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every tool that reads a config accepts."""
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='change settings of the config, e.g. train_dataloader.batch_size=4',
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what training and testing accept."""
    add_config_arguments(parser)
    parser.add_argument('--work-dir', help='logs and checkpoints; default work_dirs/CONFIG_NAME')
    parser.add_argument('--data-root', help='folder of the data, instead of the one in the config')
    parser.add_argument(
        '--check', action='store_true', help='check config, data and devices, then stop'
    )
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)


def load_config(path: str, cfg_options: Optional[dict] = None) -> Config:
    """Read a config file.

    Raises:
        UserError: If it does not exist, or does not parse.
    """
    if not osp.isfile(path):
        folder = osp.dirname(path) or '.'
        names = sorted(os.listdir(folder)) if osp.isdir(folder) else []
        close = difflib.get_close_matches(osp.basename(path), names, n=1, cutoff=0.4)
        hint = f'did you mean {osp.join(folder, close[0])}?' if close else 'check the path'
        raise UserError(f'config {path} does not exist: {hint}')
    try:
        cfg = Config.fromfile(path)
    except (SyntaxError, KeyError, TypeError, AttributeError, FileNotFoundError) as error:
        raise UserError(f'config {path} cannot be read: {error}') from error
    if cfg_options:
        cfg.merge_from_dict(cfg_options)
    if 'model' not in cfg:
        raise UserError(f'config {path} has no model: give one of the files beside _base_')
    return cfg


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


def check_devices() -> None:
    """Check that every process of this machine has a GPU of its own, where there are GPUs.

    Raises:
        UserError: If there are more processes than GPUs.
    """
    processes = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    gpus = torch.cuda.device_count()
    if torch.cuda.is_available() and processes > gpus:
        raise UserError(
            f'{processes} processes but {gpus} GPU(s) on this machine: start {gpus}, or hide '
            "the GPUs with CUDA_VISIBLE_DEVICES='' to run on the CPU"
        )


def use_cpu(cfg: Config) -> None:
    """Fit a config to a machine without GPU: gloo instead of nccl, BN instead of SyncBN."""
    for node in _dicts(cfg._cfg_dict):
        if node.get('type') == 'SyncBN':
            node['type'] = 'BN'
    cfg.pop('sync_bn', None)
    env_cfg = cfg.setdefault('env_cfg', {})
    env_cfg['dist_cfg'] = dict(backend='gloo')
    if cfg.launcher != 'none':
        # mmengine names the GPU of the process, which DDP refuses on the CPU
        cfg.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )


def build_runner(cfg: Config) -> Runner:
    """Build mmengine's runner, joining the process group first where there is no GPU."""
    if cfg.launcher != 'none' and not torch.cuda.is_available():
        init_gloo(cfg.launcher)
    # NAME=None takes a hook away; of those that are not its own, mmengine does not know that
    for name, hook in list((cfg.get('default_hooks') or {}).items()):
        if hook is None and name not in MMENGINE_HOOKS:
            cfg.default_hooks.pop(name)
    return Runner.from_cfg(cfg)


def init_gloo(launcher: str) -> None:
    """Join the process group of a run without GPUs.

    mmengine would choose the GPU of the process first, and fail. It leaves a group alone that
    exists already.
    """
    if torch.distributed.is_initialized():
        return
    if launcher == 'slurm':
        os.environ['RANK'] = os.environ['SLURM_PROCID']
        os.environ['WORLD_SIZE'] = os.environ['SLURM_NTASKS']
        os.environ['LOCAL_RANK'] = os.environ.get('SLURM_LOCALID', '0')
        os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
        os.environ.setdefault('MASTER_PORT', '29500')
    torch.distributed.init_process_group('gloo')


# ---------------------------------------------------------------------- files
def check_file(path: str, what: str) -> None:
    """Check that a file named on the command line exists.

    Raises:
        UserError: If it does not.
    """
    if '://' not in path and not osp.isfile(path):
        raise UserError(f'{what} {path} does not exist: check the path')


def check_pretrained(cfg: Config) -> None:
    """Check that the weights a backbone of this package starts from can be had.

    Raises:
        CheckpointError: If the file is missing, or cannot be downloaded.
    """
    backbone = cfg.model.get('backbone') or {}
    init_cfg = backbone.get('init_cfg') or {}
    cls = getattr(backbones, str(backbone.get('type')), None)
    if cls is None or init_cfg.get('type') != 'Pretrained':
        return
    try:
        local_path(init_cfg['checkpoint'])
    except CheckpointError as error:
        raise CheckpointError('; '.join(filter(None, [str(error), cls.weights_note]))) from error


def replace_data_root(cfg: Config, root: str) -> None:
    """Let every path of the config that begins with its ``data_root`` begin with ``root``.

    Raises:
        UserError: If the config has no ``data_root``.
    """
    old = cfg.get('data_root')
    if not old:
        raise UserError('--data-root: this config names no data_root; set the paths one by one')
    old, root = old.rstrip('/'), root.rstrip('/')

    def renew(value: Any) -> Any:
        if isinstance(value, str) and (value == old or value.startswith(old + '/')):
            return root + value[len(old) :]
        return value

    for node in _dicts(cfg._cfg_dict):
        for key, value in list(node.items()):
            node[key] = [renew(v) for v in value] if isinstance(value, list) else renew(value)


def check_data(cfg: Config, *loaders: str) -> None:
    """Check that what the datasets read is there, before anything is built.

    Args:
        cfg: The config.
        loaders: Which of its dataloaders to check, e.g. 'train_dataloader'.

    Raises:
        UserError: If a file or folder is missing.
    """
    for loader in loaders:
        for node in _dicts(cfg.get(loader) or {}):
            if not {'data_prefix', 'ann_file', 'split'} & set(node):
                continue
            root = node.get('data_root') or ''
            prefix = node.get('data_prefix') or node.get('split') or {}
            paths = [prefix] if isinstance(prefix, str) else list(prefix.values())
            for path in filter(None, [node.get('ann_file'), *paths]):
                path = osp.join(root, path)
                if '://' not in path and not osp.exists(path):
                    raise UserError(
                        f'{loader}: {path} does not exist: put the data there (docs/data.md '
                        'says how it is laid out) or name its folder with --data-root'
                    )
            if node.get('type') in CLASS_FOLDER_DATASETS and paths:
                _check_class_folders(loader, node, osp.join(root, paths[0]))


def _check_class_folders(loader: str, node: dict, folder: str) -> None:
    """Check that a classification data set without a list has one folder for every class.

    Raises:
        UserError: If it has none, or another number than the config has classes.
    """
    split = str(node.get('split'))
    listed = osp.join(node.get('data_root') or '', 'meta', f'{split}.txt')
    unlabelled = split == 'test' or node.get('with_label') is False
    if node.get('ann_file') or osp.exists(listed) or unlabelled or '://' in folder:
        return
    found = sum(entry.is_dir() for entry in os.scandir(folder))
    classes = (node.get('metainfo') or {}).get('classes')
    wanted = len(classes) if classes else {'ImageNet': 1000}.get(node['type'], found)
    if not found:
        raise UserError(
            f'{loader}: {folder} has no class folders: sort its pictures into one folder a class '
            '(docs/data.md says how)'
        )
    if found != wanted:
        raise UserError(
            f'{loader}: {folder} has {found} class folders, the config has {wanted} classes: '
            'name the classes and their number in the config (docs/data.md says how)'
        )


def _dicts(node: Any) -> Iterator[dict]:
    """Walk all dicts inside nested dicts, lists and tuples."""
    if isinstance(node, dict):
        yield node
        for value in list(node.values()):
            yield from _dicts(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _dicts(value)
