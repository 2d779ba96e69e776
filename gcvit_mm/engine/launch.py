"""Starting runs: what tools/train.py, tools/test.py and tools/predict.py share."""

import argparse
import difflib
import os
import os.path as osp
import subprocess
import sys
from typing import Any, Callable, Optional

import torch
from mmengine.config import Config, DictAction
from mmengine.dist import init_dist
from mmengine.registry import MODELS, RUNNERS, init_default_scope
from mmengine.runner import FlexibleRunner, Runner

from .. import backbones
from ..checkpoints import local_path
from ..errors import CheckpointError, UserError
from .check_config import check_options, check_types, dicts_inside
from .explain import described, explain
from .guards import check_channels, guard, read_safely
from .resume import restart_store, restarts

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
    """Run the main function of a tool; errors end it with one line, bad input with status 2.

    What nobody foresaw has status 1, and its traceback where there are several processes.
    ``GCVIT_MM_TRACEBACK=1`` shows where an error comes from in any case.
    """
    try:
        main()
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr, flush=True)
        sys.exit(130)
    except Exception as error:
        line, status = explain(error)
        if status == 1 and int(os.environ.get('WORLD_SIZE', 1)) > 1:
            raise  # torch says which rank it was
        print(f'error: {line}', file=sys.stderr, flush=True)
        sys.exit(status)


class KeyValue(DictAction):
    """mmengine's ``DictAction``, with an error for words that are no KEY=VALUE."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        """Parse the words after an option."""
        wrong = [word for word in values if not word.partition('=')[1] or word.startswith('=')]
        if wrong:
            parser.error(f'{option}: {wrong[0]} is no KEY=VALUE, e.g. train_cfg.max_epochs=1')
        try:
            super().__call__(parser, namespace, values, option)
        except Exception as error:  # unbalanced brackets and the like
            parser.error(f'{option}: {" ".join(values)} cannot be read: {error}')


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every tool that reads a config accepts."""
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=KeyValue,
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
        UserError: If it does not exist or does not parse, or a setting has the wrong type.
    """
    if not osp.isfile(path):
        folder = osp.dirname(path) or '.'
        names = sorted(os.listdir(folder)) if osp.isdir(folder) else []
        close = difflib.get_close_matches(osp.basename(path), names, n=1, cutoff=0.4)
        hint = f'did you mean {osp.join(folder, close[0])}?' if close else 'check the path'
        raise UserError(f'config {path} does not exist: {hint}')
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is a program
        raise UserError(f'config {path} cannot be read: {described(error)}: correct it') from error
    if cfg_options:
        check_options(cfg, cfg_options)
        try:
            cfg.merge_from_dict(cfg_options)
        except Exception as error:  # a key inside of what is no dict, or beyond a list
            raise UserError(
                f'--cfg-options {_culprit(path, cfg_options)}: {described(error)}: correct the '
                f'key, or set what holds it in {path}'
            ) from error
    if 'model' not in cfg:
        raise UserError(f'config {path} has no model: give one of the files beside _base_')
    check_types(cfg)
    return cfg


def _culprit(path: str, cfg_options: dict) -> str:
    """The option that cannot be set; all where each of them can."""
    for key, value in cfg_options.items():
        try:
            Config.fromfile(path).merge_from_dict({key: value})
        except Exception:
            return key
    return ', '.join(cfg_options)


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
    for node in dicts_inside(cfg._cfg_dict):
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
    elif cfg.launcher == 'pytorch' and restarts():
        init_dist('pytorch', **cfg.env_cfg.dist_cfg, **restart_store())
    # NAME=None takes a hook away; of those that are not its own, mmengine does not know that
    for name, hook in list((cfg.get('default_hooks') or {}).items()):
        if hook is None and name not in MMENGINE_HOOKS:
            cfg.default_hooks.pop(name)
    read_safely(bool(cfg.get('trust_checkpoint')))
    # configs/strategies name a runner of their own
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if isinstance(runner, (Runner, FlexibleRunner)):
        guard(runner)
    return runner


def build_model(cfg: Config) -> Any:
    """Build the model of a config without a runner.

    Raises:
        UserError: If the channels of its parts do not fit each other.
    """
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    check_channels(cfg, model)
    return model


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
        os.environ.setdefault('MASTER_ADDR', first_slurm_node())
        os.environ.setdefault('MASTER_PORT', '29500')
    torch.distributed.init_process_group('gloo', **restart_store())


def first_slurm_node() -> str:
    """Name of the first machine of a Slurm job."""
    nodes = os.environ.get('SLURM_JOB_NODELIST')
    if nodes is None or int(os.environ.get('SLURM_JOB_NUM_NODES', 1)) == 1:
        return '127.0.0.1'
    command = ['scontrol', 'show', 'hostnames', nodes]
    return subprocess.check_output(command, text=True).split()[0]


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

    for node in dicts_inside(cfg._cfg_dict):
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
        for node in dicts_inside(cfg.get(loader) or {}):
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
        evaluator = loader.replace('dataloader', 'evaluator')
        for node in dicts_inside(cfg.get(evaluator) or {}):
            path = node.get('ann_file')
            if path and '://' not in path and not osp.isfile(path):
                raise UserError(
                    f'{evaluator}: {path} does not exist: name the annotations of {loader}'
                )


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
