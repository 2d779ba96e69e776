"""Backbones on a GPU: precision, fused attention, compiled graphs, one process with nccl."""

import pytest
import torch

from gcvit_mm import GCViT, GPViT, ScalableViT
from support.devices import needs_gpu
from support.families import FAMILIES, PARTS, make, shallow
from support.faulty_run import write_config
from support.processes import attempts, free_port
from support.running import TESTS, run_process

pytestmark = needs_gpu
DTYPES = {'float32': None, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


def gradients(model, image, dtype):
    """Maps of a pass and gradients of all weights."""
    model.zero_grad()
    with torch.autocast('cuda', dtype, enabled=dtype is not None):
        maps = model(image)
    sum(m.float().square().mean() for m in maps).backward()
    return maps, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize('with_cp', [False, True], ids=['kept', 'recomputed'])
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('family', FAMILIES)
def test_families(family, dtype, with_cp):
    """The same maps as on the CPU, and finite gradients of all weights."""
    tight = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        model = make(family, with_cp=with_cp).train()
        image = torch.randn(2, 3, 97, 131)
        with torch.no_grad():
            wanted = model(image)
        maps, grads = gradients(model.cuda(), image.cuda(), DTYPES[dtype])
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tight
    assert all(grad is not None and grad.isfinite().all() for grad in grads.values())
    close = 1e-3 if dtype == 'float32' else 0.08
    for found, expected in zip(maps, wanted):
        error = (found.float().cpu() - expected).norm() / expected.norm()
        assert error < close


# Tokens of a window: 49 and 196, 64 and 576 (where cuDNN's kernel is wrong), all of a map.
MODELS = {
    'windows 7, 14': lambda: GCViT('xxtiny'),
    'windows 8, 24': lambda: GCViT('xxtiny', window_size=(8, 24, 24, 8)),
    'IWSA and SSA': lambda: ScalableViT(),
    'stripes of L1': lambda: GPViT('L1'),
    'stripes of L3': lambda: GPViT('L3'),
}


@pytest.mark.parametrize('name', MODELS)
def test_attention_is_fused(name):
    """Forward and backward in bfloat16 where torch's plain formula is switched off."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    model = MODELS[name]().train().cuda()
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
        _, grads = gradients(model, torch.randn(2, 3, 250, 333, device='cuda'), torch.bfloat16)
    assert all(grad.isfinite().all() for grad in grads.values())


@pytest.mark.parametrize('family', FAMILIES)
def test_compiled_without_breaks(family):
    """Generated code gives the maps and gradients of the eager model."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    model = shallow(family, **PARTS.get(family, {})).cuda()
    twin = shallow(family, compile=True, **PARTS.get(family, {})).cuda()
    twin.load_state_dict(model.state_dict())
    image = torch.randn(2, 3, 97, 131, device='cuda')
    maps, grads = gradients(model, image, None)
    found, others = gradients(twin, image, None)
    assert not counters['graph_break'] and counters['stats']['unique_graphs'] >= 1
    for a, b in zip((*maps, *grads.values()), (*found, *others.values())):
        torch.testing.assert_close(b, a, atol=1e-3, rtol=1e-2)


def test_nccl_with_one_process(tmp_path):
    """torchrun's one process trains, saves, is killed after a step, and resumes by itself."""
    env = dict(PORT=free_port(), PYTHONPATH=TESTS, MAX_RESTARTS='1')
    words = ('--work-dir', tmp_path / 'work')
    whole = run_process(
        'dist_train.sh', write_config(tmp_path), 1, '--work-dir', tmp_path / 'whole', env=env
    )
    output = run_process('dist_train.sh', write_config(tmp_path, (5,)), 1, *words, env=env)
    (expected,), (before, after) = attempts(whole), attempts(output)
    assert list(before) == [1, 2, 3, 4] and list(after) == list(range(4, 13))  # 5 was not logged
    assert after == pytest.approx({k: expected[k] for k in after}, abs=1e-4)
