"""Devices to run on: ``-m gpu`` selects every case that a GPU would run."""

import pytest
import torch

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
CUDA = pytest.param('cuda', marks=[pytest.mark.gpu, needs_gpu])
DEVICES = ['cpu', CUDA]
