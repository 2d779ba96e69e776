"""Memory that is freed stays with a process, where CPUs do the work."""

import ctypes
import os
import sys

import torch

SWITCH = 'GCVIT_MM_KEEP_MEMORY'
# Numbers of glibc's mallopt: <malloc.h>.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
PAD = 64 << 20


def keep_memory() -> bool:
    """Let glibc keep what is freed, for the whole process and those that it forks.

    It gives large tensors back to the system otherwise, and the next ones begin with a page fault
    every 4 kB: 6 to 10% of a training step. Where there is a GPU, where glibc was set otherwise in
    the environment, and with ``GCVIT_MM_KEEP_MEMORY=0`` nothing is changed.

    Returns:
        Whether memory is kept.
    """
    chosen = 'glibc.malloc' in os.environ.get('GLIBC_TUNABLES', '')
    chosen |= any(name.startswith('MALLOC_') for name in os.environ)
    if sys.platform != 'linux' or chosen or os.environ.get(SWITCH) == '0':
        return False
    if torch.cuda.is_available():
        return False
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:  # another C library
        return False
    return all([mallopt(TRIM_THRESHOLD, -1), mallopt(TOP_PAD, PAD), mallopt(MMAP_MAX, 0)])
