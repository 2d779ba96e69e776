"""Comparing models side by side: time, peak memory, and whether they compute the same."""

import json
import tempfile
import time
import warnings
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gcvit_mm import UserError
from gcvit_mm.planning.complexity import ATTENTION_PRODUCTS

DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
PARITY = 1e-4  # largest relative difference of models that compute the same
MIB = 2**20


class Quartiles(NamedTuple):
    """Median and quartiles of repeated measurements."""

    median: float
    low: float
    high: float


def quartiles(values: Sequence[float]) -> Quartiles:
    """Return median, lower and upper quartile."""
    low, median, high = np.percentile(np.asarray(values, float), [25, 50, 75])
    return Quartiles(float(median), float(low), float(high))


# ------------------------------------------------------------------ one pass
def make_deterministic(model: nn.Module) -> nn.Module:
    """Switch stochastic depth and dropout off, so that passes repeat and compare."""
    module: Any
    for module in model.modules():
        if type(module).__name__ == 'DropPath':  # of mmcv and of timm
            module.drop_prob = 0.0
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
        elif hasattr(module, 'attn_drop_rate'):
            module.attn_drop_rate = 0.0
    return model


def as_maps(outputs: Any) -> Tuple[Tensor, ...]:
    """Return the maps that a backbone gives as a tuple, also of one that gives a tensor."""
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def cotangent(x: Tensor) -> Tensor:
    """Gradient to begin a backward pass with: a wave, as ones vanish in the norm behind them."""
    return torch.arange(x.numel(), device=x.device).mul(0.37).sin().view(x.shape).to(x.dtype)


def make_pass(
    model: nn.Module, images: Tensor, backward: bool, dtype: str = 'fp32'
) -> Callable[[], Any]:
    """Build a function that runs a model once.

    Gradients of the weights are dropped before the pass, so that every backward pass allocates
    them, as it does behind an optimizer's ``zero_grad``.

    Args:
        model: A backbone in the mode (train, eval) that is wanted.
        images: Batch (B, 3, H, W) on the device of the model.
        backward: Run the backward pass too; otherwise no gradients are recorded.
        dtype: Key of ``DTYPES``; the 16-bit ones are torch's autocast.
    """
    device = images.device.type
    cotangents: List[Tensor] = []

    def precision() -> ContextManager:
        return nullcontext() if dtype == 'fp32' else torch.autocast(device, DTYPES[dtype])

    def forward() -> None:
        with torch.no_grad(), precision():
            model(images)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with precision():
            outputs = as_maps(model(images))
        if not cotangents:
            cotangents.extend(map(cotangent, outputs))
        torch.autograd.backward(outputs, cotangents)

    return step if backward else forward


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == 'cuda':
        torch.cuda.synchronize()


# ----------------------------------------------------------------- measuring
def interleave(
    passes: Dict[str, Callable[[], Any]], rounds: int, warmups: int, device: str
) -> Dict[str, List[float]]:
    """Time functions by turns, so that what disturbs the machine disturbs all of them.

    Every other round runs them in the opposite order.

    Returns:
        Seconds of every round, by name.
    """
    times: Dict[str, List[float]] = {name: [] for name in passes}
    for number in range(-warmups, rounds):
        names = list(passes) if number % 2 == 0 else list(passes)[::-1]
        for name in names:
            synchronize(device)
            start = time.perf_counter()
            passes[name]()
            synchronize(device)
            if number >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(times: Sequence[float], reference: Sequence[float]) -> Quartiles:
    """Return median and quartiles of the ratios of the rounds."""
    return quartiles([a / b for a, b in zip(times, reference)])


def peak_memory(run: Callable[[], Any], model: nn.Module) -> float:
    """Measure by how much tensors rise above weights and inputs in one pass, in MiB.

    On CUDA this is the allocator's own account. On the CPU torch's profiler reports every
    allocation and release of its allocator; their running sum has the peak. That is exact and the
    same in every run, which resident memory of the process is not; scratch space that kernels
    take from elsewhere is not seen.

    Args:
        run: From :func:`make_pass`; it has run before.
        model: Its model, whose gradients are dropped first.
    """
    model.zero_grad(set_to_none=True)
    if next(model.parameters()).is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    cpu = torch.profiler.ProfilerActivity.CPU
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter('ignore')  # of cycles, which there are none of
        with torch.profiler.profile(activities=[cpu], profile_memory=True) as profile:
            run()
        trace = Path(folder, 'trace.json')
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())['traceEvents']
    events = sorted((e for e in events if e['name'] == '[memory]'), key=lambda e: e['ts'])
    return float(max(np.cumsum([e['args']['Bytes'] for e in events]), default=0)) / MIB


def weight_memory(model: nn.Module) -> float:
    """Memory of parameters and buffers in MiB."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values()) / MIB


def count_gmacs(model: nn.Module, size: Sequence[int], attention_only: bool = False) -> float:
    """Count multiply-accumulates of one image in G, as :func:`complexity.count_macs` does.

    Args:
        model: Backbone on any device; it is copied to the meta device.
        size: ``(height, width)`` of the image.
        attention_only: Count only the two matrix products of attention.
    """
    model = deepcopy(model).to('meta')
    model.eval()
    images = torch.zeros(1, 3, *size, device='meta')
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
    flops = counter.get_flop_counts()['Global']
    return sum(v for k, v in flops.items() if not attention_only or k in ATTENTION_PRODUCTS) / 2e9


def exponent(pixels: Sequence[float], values: Sequence[float]) -> float:
    """Fit ``values ~ pixels ** exponent`` by least squares of the logarithms."""
    return float(np.polyfit(np.log(pixels), np.log(values), 1)[0])


# -------------------------------------------------------------------- parity
def check_parity(
    model: nn.Module, peer: nn.Module, images: Tensor, backward: bool, name: str
) -> Dict[str, Optional[float]]:
    """Check in fp32 that two models with the same weights compute the same.

    Where one of them gives fewer maps, those of the last stages are compared: the largest
    difference over the largest value of a map. Gradients are compared where both have parameters
    of the same names: the norm of the difference over the norm, of all of them together. Where they
    differ, the mirrored images decide: rounding may choose another of two equal tokens in a max
    pooling, but hardly twice.

    Returns:
        The differences of the 'outputs' and of the 'gradients' (``None`` if not compared).

    Raises:
        UserError: If one is above ``PARITY`` or not a number.
    """
    found = _compare(model, peer, images, backward)
    if found['gradients'] is not None and not found['gradients'] <= PARITY:
        found = _compare(model, peer, images.flip(-1), backward)
    for what, value in found.items():
        if value is not None and not value <= PARITY:
            raise UserError(
                f'{name}: its {what} differ by {value:.1e} (limit {PARITY:.0e}): it does not '
                'compute the same, so a comparison of times would mean nothing'
            )
    return found


def _compare(
    model: nn.Module, peer: nn.Module, images: Tensor, backward: bool
) -> Dict[str, Optional[float]]:
    found: Dict[str, Optional[float]] = dict(outputs=0.0, gradients=None)
    sides = []
    for side in (model, peer):
        side.zero_grad(set_to_none=True)
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.set_grad_enabled(backward), exact:
            sides.append(as_maps(side(images)))
    pairs = list(zip(reversed(sides[0]), reversed(sides[1])))
    found['outputs'] = max(_difference(a, b) for a, b in pairs)
    if backward:
        for outs in sides:
            wanted = outs[-len(pairs) :]
            torch.autograd.backward(wanted, [cotangent(out) for out in wanted])
        theirs = dict(peer.named_parameters())
        ours = dict(model.named_parameters())
        if set(ours) == set(theirs):
            vectors = [torch.cat([_gradient(side[k]) for k in ours]) for side in (ours, theirs)]
            found['gradients'] = float((vectors[0] - vectors[1]).norm() / vectors[1].norm())
    model.zero_grad(set_to_none=True)
    peer.zero_grad(set_to_none=True)
    return found


def _gradient(parameter: Tensor) -> Tensor:
    grad = parameter.grad
    return torch.zeros_like(parameter).flatten() if grad is None else grad.flatten()


def _difference(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float('inf')
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))
