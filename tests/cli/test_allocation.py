"""Memory that is freed stays where CPUs do the work, and page faults stay away."""

import sys

import pytest

from gcvit_mm.cli import allocation
from support.own_process import last, python

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='glibc is of Linux')
PAGES = (1 << 26) // 4096
CODE = """
import resource, torch
from gcvit_mm.cli.allocation import keep_memory
print('kept', keep_memory(), keep_memory())
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use():
    for _ in range(20):
        torch.ones(1 << 24)  # 64 MiB
use()
before = faults()
use()
print(faults() - before)
"""


def test_pages_are_taken_once():
    """In a process of its own, as it is for the whole of one."""
    status, output = python(CODE, CUDA_VISIBLE_DEVICES='')
    assert status == 0, output
    if 'kept False False' in output:
        pytest.skip('another C library than glibc, or one that was set')
    assert int(last(output)) < 2 * PAGES


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('GCVIT_MM_KEEP_MEMORY', '0'),
        ('MALLOC_TOP_PAD_', '4096'),
        ('GLIBC_TUNABLES', 'glibc.malloc.top_pad=4096'),
    ],
)
def test_what_was_chosen_is_left_alone(name, value, monkeypatch):
    asked = []
    library = type('Library', (), dict(mallopt=lambda self, *pair: asked.append(pair) or 1))
    monkeypatch.setattr(allocation.ctypes, 'CDLL', lambda path: library())
    monkeypatch.setattr(allocation.torch.cuda, 'is_available', lambda: False)
    for other in [key for key in allocation.os.environ if key.startswith('MALLOC_')]:
        monkeypatch.delenv(other)
    monkeypatch.delenv('GLIBC_TUNABLES', raising=False)
    assert allocation.keep_memory() and len(asked) == 3
    monkeypatch.setenv(name, value)
    assert not allocation.keep_memory() and len(asked) == 3


def test_a_gpu_needs_none_of_it(monkeypatch):
    monkeypatch.setattr(allocation.torch.cuda, 'is_available', lambda: True)
    assert not allocation.keep_memory()
