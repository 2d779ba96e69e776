"""What a GPU would do, asked on a machine that has none.

Parameters and images are torch's fake tensors on a fake CUDA device: they have shapes, types,
strides and a device, and no values. A tensor made on the wrong device is an error, as it is there.
"""

from contextlib import contextmanager
from typing import Iterator, List, NamedTuple, Optional
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode


class Call(NamedTuple):
    """A call of torch's attention."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Optional[Tensor]


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Tensors made inside are fake, and may be on 'cuda', with autocast as GPUs have it."""
    with mock.patch.multiple(torch.cuda, is_bf16_supported=lambda *args, **kwargs: True):
        with mock.patch('torch.cuda.amp.common.amp_definitely_not_available', lambda: False):
            with FakeTensorMode(allow_non_fake_inputs=False):
                yield


def to_fake_cuda(model: nn.Module) -> nn.Module:
    """Replace all weights by fake ones on a GPU; to be called inside of :func:`fake_cuda`."""

    def fake(tensor: Tensor) -> Tensor:
        options = dict(dtype=tensor.dtype, device='cuda')
        return torch.empty_strided(tuple(tensor.shape), tensor.stride(), **options)

    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                learns = parameter.requires_grad
                module._parameters[name] = nn.Parameter(fake(parameter), requires_grad=learns)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = fake(buffer)
    return model


@contextmanager
def recorded_attention() -> Iterator[List[Call]]:
    """The calls of torch's attention made inside."""
    calls: List[Call] = []
    attend = F.scaled_dot_product_attention

    def record(q, k, v, attn_mask=None, *args, **kwargs):
        given = Call(q, k, v, attn_mask)
        if torch.is_autocast_enabled('cuda'):  # which has them all in one type
            dtype = torch.get_autocast_dtype('cuda')
            given = Call(*(t if t is None else t.to(dtype) for t in given))
        calls.append(given)
        return attend(q, k, v, attn_mask, *args, **kwargs)

    F.scaled_dot_product_attention = record
    try:
        yield calls
    finally:
        F.scaled_dot_product_attention = attend


def unfused(call: Call) -> str:
    """Why torch's memory-efficient kernel, the one that takes a bias, would refuse a call.

    From torch's rules (aten/native/transformers/cuda/sdp_utils.cpp): types, widths of heads
    (multiples of 8 in 16 bits, of 4 in 32), innermost strides of 1; and of a bias the type of the
    queries, and rows that begin at multiples of 16 bytes.

    Returns:
        The rule that is broken; empty if none is.
    """
    q, k, v, bias = call
    if not (q.dtype == k.dtype == v.dtype):
        return f'queries, keys and values are {q.dtype}, {k.dtype}, {v.dtype}'
    if q.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f'queries are {q.dtype}'
    multiple = 4 if q.dtype == torch.float32 else 8
    if q.shape[-1] % multiple or v.shape[-1] % multiple:
        return f'heads of {q.shape[-1]} and {v.shape[-1]} channels: not multiples of {multiple}'
    if any(x.stride(-1) != 1 for x in (q, k, v)):
        return f'innermost strides are {q.stride(-1)}, {k.stride(-1)}, {v.stride(-1)}'
    if any(s % multiple for x in (q, k, v) for s in x.stride()[:-1] if s not in (0, 1)):
        return f'strides {q.stride()}, {k.stride()}, {v.stride()}: not multiples of {multiple}'
    if bias is None:
        return ''
    if bias.dtype != q.dtype:
        return f'the bias is {bias.dtype}, the queries {q.dtype}'
    if bias.shape != (*q.shape[:3], k.shape[2]) and bias.shape[:1] != q.shape[:1]:
        return f'a bias of shape {tuple(bias.shape)} for {tuple(q.shape)}'
    aligned = 16 // bias.element_size()
    rows = bias.stride(-2)
    if bias.stride(-1) not in (0, 1) or rows % aligned:
        return f'strides of the bias {bias.stride()}: rows must begin at multiples of {aligned}'
    return ''


def two_blocks(cls, **options):
    """A backbone without weights and with two blocks a stage: those that follow repeat them."""
    with torch.device('meta'):
        model = cls(**options)
    for stage in model.stages:
        if hasattr(stage, 'blocks'):
            del stage.blocks[2:]
    return model


def run_on_fake_cuda(model, dtype, size, batch=2):
    """A pass on a fake GPU; returns maps and calls of attention."""
    to_fake_cuda(model)
    image = torch.empty(batch, 3, *size, device='cuda')
    with recorded_attention() as calls, torch.autocast('cuda', dtype, dtype != torch.float32):
        outputs = model(image)
    return outputs, calls
