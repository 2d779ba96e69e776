"""Fitting a run to the devices of this machine."""

import os
import subprocess

import torch
from mmengine.config import Config

from ..datacheck.datasets import dicts_inside
from ..engine.resuming import restart_store
from ..errors import UserError


def local_rank() -> int:
    """Number of this process on its machine, as its launcher counts; 0 without a launcher."""
    names = ('LOCAL_RANK', 'SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK')
    return int(next((os.environ[name] for name in names if os.environ.get(name)), 0))


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
