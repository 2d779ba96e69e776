"""Whose operators mmcv.ops uses in a test."""

import sys

import pytest
import torch

import gcvit_mm  # noqa: F401
from gcvit_mm.ops import Extension

ops = pytest.importorskip('mmcv.ops', reason='mmcv is not installed')


def switch(monkeypatch, extension):
    """Have the modules of mmcv.ops call an extension."""
    for name, module in list(sys.modules.items()):
        if name.startswith('mmcv.ops.') and hasattr(module, 'ext_module'):
            monkeypatch.setattr(module, 'ext_module', extension)


@pytest.fixture
def use(monkeypatch):
    """Have mmcv.ops call an extension."""
    return lambda extension: switch(monkeypatch, extension)


@pytest.fixture
def ours(use):
    """mmcv.ops on our operators alone."""
    use(Extension(None, 'torch'))
    return ops


@pytest.fixture
def compiled():
    """mmcv's compiled module, or a skip."""
    module = sys.modules['mmcv._ext']._compiled
    if module is None:
        pytest.skip("mmcv's operators are not compiled")
    return module


@pytest.fixture
def both(use, compiled):
    """A function's results on mmcv's compiled operators and on ours."""

    def run(function):
        results = []
        for extension in (Extension(compiled, 'compiled'), Extension(None, 'torch')):
            use(extension)
            results.append(function())
        return results

    return run


@pytest.fixture(autouse=True)
def seed():
    """The same numbers in every run."""
    torch.manual_seed(0)
