"""What makes the backbones fast, taken out one at a time: for tools/benchmark.py."""

from contextlib import ExitStack
from copy import deepcopy
from typing import Any, Dict, Optional, Tuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcvit_mm.backbones.base import BaseBackbone
from gcvit_mm.errors import UserError
from gcvit_mm.layers import RelativePositionBias, WindowAttention
from gcvit_mm.layers import attention as attention_module


def _products(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Optional[Tensor] = None,
    dropout_p: float = 0.0,
    scale: Optional[float] = None,
) -> Tensor:
    """Attention as two products with the scores between them."""
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1)
    if attn_mask is not None:
        scores = scores + attn_mask
    return F.dropout(scores.softmax(-1), dropout_p) @ v


def _project_and_copy(self: WindowAttention, windows: Tensor, query: Optional[Tensor]) -> Any:
    q, k, v = _PROJECT(self, windows, query)
    return (q if query is None else q.contiguous()), k, v


def _unaligned(self: RelativePositionBias, dtype: torch.dtype) -> Tensor:
    return _BIAS(self, dtype).contiguous()


class _CudnnAttention:
    """Lets torch choose cuDNN's attention too; of no effect before torch 2.5."""

    def __enter__(self) -> None:
        self.was = torch.backends.cuda.cudnn_sdp_enabled()
        torch.backends.cuda.enable_cudnn_sdp(True)

    def __exit__(self, *error: Any) -> None:
        torch.backends.cuda.enable_cudnn_sdp(self.was)


_PROJECT, _BIAS = WindowAttention._project, RelativePositionBias.forward
_NO_RECOMPUTING = mock.patch.object(attention_module, '_bias_learns', lambda bias: False)
# What stands in for a part of the package while the model runs.
MEANS: Dict[str, Tuple[Any, ...]] = {
    'without-fused-attention': (
        mock.patch.object(F, 'scaled_dot_product_attention', _products),
        _NO_RECOMPUTING,
    ),
    'without-recomputed-attention': (_NO_RECOMPUTING,),
    'without-aligned-bias': (mock.patch.object(RelativePositionBias, 'forward', _unaligned),),
    'without-expanded-query': (mock.patch.object(WindowAttention, '_project', _project_and_copy),),
    'without-channels-last': (),
    'with-cudnn-attention': (_CudnnAttention(),),
}


def take_out(name: str, subject: nn.Module) -> nn.Module:
    """Copy a backbone and take one of its means out; the copy computes the same, but slower.

    Args:
        name: Key of ``MEANS``.
        subject: A backbone of this package.

    Raises:
        UserError: If it is none, or recomputes blocks: that happens after the means are back.
    """
    if not isinstance(subject, BaseBackbone):
        raise UserError(f'{name}: {type(subject).__name__} is no backbone of gcvit_mm')
    if subject.with_cp:
        raise UserError(f'{name}: compare without with_cp')
    model, cls = deepcopy(subject), type(subject)
    if name == 'without-channels-last':
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def forward(self: Any, *args: Any) -> Any:
        with ExitStack() as stack:
            for patch in MEANS[name]:
                stack.enter_context(patch)
            return cls.forward(self, *args)

    model.__class__ = type(cls.__name__, (cls,), dict(forward=forward))
    return model
