"""Fitting a run to the devices of this machine."""

import os
import subprocess
from typing import Any, Dict

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.structures import BaseDataElement

from ..compat import cpu_has_bfloat16, cpu_has_fused
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
    """Fit a config to a machine without GPU: gloo, BN instead of SyncBN, a fused optimizer."""
    for node in dicts_inside(cfg._cfg_dict):
        if node.get('type') == 'SyncBN':
            node['type'] = 'BN'
    cfg.pop('sync_bn', None)
    optimizer: Any = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    if cpu_has_fused(optimizer.get('type')) and not {'fused', 'foreach'} & {*optimizer}:
        # one pass over weights and states, in a third of the time; strategies divide what it takes
        if not cfg.get('strategy'):
            optimizer.fused = True
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


def use_amp(cfg: Config, dtype: str) -> None:
    """Let a config train in mixed precision.

    Args:
        cfg: The config.
        dtype: 'bfloat16' or, on a GPU, 'float16'.

    Raises:
        UserError: If this machine cannot, or would be slower.
    """
    for key in ('dtype', 'loss_scale', 'use_fsdp'):
        cfg.optim_wrapper.pop(key, None)
    device = get_device()
    if device == 'cpu':
        if dtype != 'bfloat16':
            raise UserError(f'--amp {dtype} needs a GPU: give --amp, which computes in bfloat16')
        check_cpu_bfloat16()
    cfg.optim_wrapper.update(amp_settings(dtype, device))


def amp_settings(dtype: str, device: str) -> Dict[str, Any]:
    """Settings of the wrapper of an optimizer that trains in mixed precision.

    Args:
        dtype: 'bfloat16' or, on a GPU, 'float16'.
        device: 'cpu' or 'cuda'.
    """
    if device == 'cpu':
        return dict(type='CPUAmpOptimWrapper')
    # bfloat16 reaches as far as float32 and needs no scale
    scale: Any = 'dynamic' if dtype == 'float16' else dict(enabled=False)
    return dict(type='AmpOptimWrapper', dtype=dtype, loss_scale=scale)


def predict_in_bfloat16(model: Any, device: str) -> None:
    """Let the ``test_step`` of a model compute in bfloat16; results are float32.

    Args:
        model: The model.
        device: Type of its device: 'cpu', 'cuda'.

    Raises:
        UserError: If this processor would be slower.
    """
    if device == 'cpu':
        check_cpu_bfloat16()
    whole = model.test_step

    def test_step(data: Any) -> Any:
        with torch.autocast(device, torch.bfloat16):
            results = whole(data)
        return [widen(result) for result in results]

    model.test_step = test_step


def widen(value: Any) -> Any:
    """What a model says, in float32 where it is in fewer bits, which numpy does not know."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if isinstance(value, BaseDataElement):
        value.set_data({key: widen(inner) for key, inner in value.items()})
    return value


def check_cpu_bfloat16() -> None:
    """Check that this processor has instructions for bfloat16.

    Raises:
        UserError: If it has none.
    """
    if not cpu_has_bfloat16():
        raise UserError(
            '--amp: this processor has no instructions for bfloat16 and would be slower with it: '
            'leave it out'
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
