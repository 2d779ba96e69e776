"""Shared by all tests: where the code is, how many threads it uses, and the seed."""

import gc
import os
import signal
import sys
from pathlib import Path

# Threads that wait for others sleep instead of spinning: on cores shared with other jobs small
# models run ten times faster so. Read once, when torch is imported.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
os.environ.setdefault('MPLBACKEND', 'Agg')

import pytest
import torch
from mmengine.registry import DefaultScope

import gcvit_mm  # noqa: F401  stands in for mmcv._ext from here on
from gcvit_mm.checkpoints import downloading
from gcvit_mm.layers import recompute

ROOT = Path(__file__).resolve().parents[1]
for folder in (ROOT, ROOT / 'tools', ROOT / 'tests'):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

from support import running
from support.devices import DEVICES

# Whether a file is on the disk no test can tell, and it would wait for what all others write.
os.fsync = lambda handle: None
downloading.PAUSE = 0
recompute.SMALL = 0  # the maps of tests are small, and take the way of large ones so
torch.set_num_threads(1 if 'PYTEST_XDIST_WORKER' in os.environ else 2)


def pytest_collection_modifyitems(items) -> None:
    """Mark by folder: whole runs and what takes as long as e2e, what only a GPU can run as gpu."""
    for item in items:
        folder = item.path.relative_to(ROOT / 'tests').parts[0]
        if folder in ('e2e', 'gpu'):
            item.add_marker(folder)


def pytest_collection_finish() -> None:
    """Leave what was imported to itself: every data set of mmengine's collects garbage."""
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item) -> None:
    """Let the tools see a GPU in tests that are marked so, and in no others."""
    running.SEES_GPU = item.get_closest_marker('gpu') is not None


@pytest.fixture(autouse=True)
def same_start() -> None:
    """Let every test draw the same numbers and have no default scope, whatever ran before it."""
    torch.manual_seed(0)
    DefaultScope._instance_dict.clear()
    if hasattr(signal, 'alarm'):
        signal.alarm(0)  # of a tool that has ended with an error


@pytest.fixture(scope='session', params=DEVICES)
def device(request) -> str:
    """The CPU, and a GPU where there is one: for tests that both can run."""
    return request.param


@pytest.fixture(scope='session')
def shapes(tmp_path_factory) -> Path:
    """A data set of a few drawn shapes, in all three layouts."""
    from make_shapes import make_shapes

    out = tmp_path_factory.mktemp('data') / 'shapes'
    make_shapes(out, dict(train=16, val=4, size=96, seed=0, cls_train=5, cls_val=5))
    return out
