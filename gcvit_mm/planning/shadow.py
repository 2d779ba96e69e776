"""Running a model without its numbers: tensors have shapes, types and devices, and no memory.

torch's ``FakeTensorMode`` does this for everything whose shapes follow from shapes. What follows
from numbers (suppressing boxes, sampling them, sizes kept in tensors) is answered here: small
tensors whose numbers are known carry them along, and where numbers of the network would decide,
the most that can come out is taken: every box stays, every anchor is positive and negative.
"""

import warnings
from contextlib import ExitStack
from typing import Any, Callable, List, Optional
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from .answers import ANSWERS, numbers, suppress
from .bounds import bounds

aten = torch.ops.aten
KNOWN = 4096  # numbers of a tensor that are carried along
SEEN = Callable[[Callable[..., Any], Any, dict, Any], None]


def guessed(tensor: Tensor) -> Tensor:
    """The numbers of a tensor; those that are not known are 0, or True."""
    value = numbers(tensor)
    if value is None:
        with no_dispatch():
            make = torch.ones if tensor.dtype == torch.bool else torch.zeros
            value = make(tuple(tensor.shape), dtype=tensor.dtype)
    return value


class Dispatch(TorchDispatchMode):
    """Answers what depends on numbers, and shows every operation to who asks.

    Args:
        seen: Called after each operation with it, its arguments and what it returned.
        gpu: Whether operations are those of a GPU.
    """

    def __init__(self, seen: Optional[SEEN] = None, gpu: bool = False) -> None:
        super().__init__()
        self.seen = seen
        self.gpu = gpu

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Optional[dict] = None
    ) -> Any:
        """Run one operation."""
        with torch._C.DisableTorchFunction():
            return ANSWERS.get(func, Dispatch.run)(self, func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict) -> Any:
        """Run an operation whose shapes follow from shapes."""
        out = func(*args, **kwargs)
        self.carry(func, args, kwargs, out)
        if self.seen is not None:
            self.seen(func, args, kwargs, out)
        return out

    def made(self, shape: Any, dtype: torch.dtype, device: Any) -> Tensor:
        """A new tensor."""
        return self.run(aten.empty.memory_format, (list(shape),), dict(dtype=dtype, device=device))

    def real(self, value: Tensor, device: Any) -> Tensor:
        """A new tensor with known numbers."""
        out = self.made(value.shape, value.dtype, device)
        out.numbers = value  # type: ignore[attr-defined]
        return out

    def carry(self, func: Any, args: Any, kwargs: dict, out: Any) -> None:
        """Compute the numbers of what an operation returned, where they are known and few."""
        given = tensors(args) + tensors(tuple(kwargs.values()))
        outs = tensors(out if isinstance(out, (tuple, list)) else (out,))
        if not outs or any(x.numel() > KNOWN or numbers(x) is None for x in given):
            if func._schema.is_mutable:
                forget(func, args)
            return
        if any(x.numel() > KNOWN for x in outs) or 'empty' in func._schema.name:
            return
        with no_dispatch():
            found = func(*tree_map(to_numbers, args), **tree_map(to_numbers, kwargs))
        found = found if isinstance(found, (tuple, list)) else (found,)
        for fake, value in zip(outs, tensors(found)):
            fake.numbers = value  # type: ignore[attr-defined]


def tensors(values: Any) -> List[Tensor]:
    """Tensors among values, and in lists among them."""
    found: List[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += [x for x in value if isinstance(x, Tensor)]
    return found


def forget(func: Any, args: Any) -> None:
    """Forget the numbers of what was written with others that are not known."""
    for argument, value in zip(func._schema.arguments, args):
        if argument.alias_info is not None and argument.alias_info.is_write:
            for known in map(numbers, tensors((value,))):
                if known is not None:
                    known.untyped_storage().forgotten = True  # type: ignore[attr-defined]


def to_numbers(x: Any) -> Any:
    """An argument of an operation that is computed on the CPU."""
    if isinstance(x, Tensor):
        return numbers(x)
    return torch.device('cpu') if isinstance(x, torch.device) else x


class Functions(TorchFunctionMode):
    """Hands numbers to numpy and Python, and has tensors say that they are on a GPU.

    All memory here is called that of the CPU, as autograd knows no GPU that is not there. With
    ``gpu`` tensors say ``is_cuda``, so that what is run is what a GPU runs: its attention, and
    float32 where its mixed precision has it.
    """

    def __init__(self, gpu: bool) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Optional[dict] = None
    ) -> Any:
        """Run one function."""
        kwargs = kwargs or {}
        if func in (Tensor.numpy, Tensor.tolist, Tensor.__array__):
            with no_dispatch():
                return func(guessed(args[0]), *args[1:], **kwargs)
        if func is Tensor.__deepcopy__:
            copied, memo = args
            copy = memo[id(copied)] = copied.detach().clone().requires_grad_(copied.requires_grad)
            return copy
        if func is torch._shape_as_tensor:
            return torch.tensor(list(args[0].shape))
        if self.gpu:
            return self.on_gpu(func, args, kwargs)
        return func(*args, **kwargs)

    def on_gpu(self, func: Any, args: Any, kwargs: dict) -> Any:
        """Run one function as if on a GPU."""
        name = getattr(func, '__name__', '')
        if func == IS_CUDA:
            return True
        args, kwargs = tree_map(to_cpu, args), tree_map(to_cpu, kwargs)
        if func is F.scaled_dot_product_attention:
            return fused_attention(*args, **kwargs)
        if name in IN_FLOAT32 and torch.is_autocast_enabled('cpu'):
            args, kwargs = tree_map(to_float32, args), tree_map(to_float32, kwargs)
        return func(*args, **kwargs)


IS_CUDA = Tensor.is_cuda.__get__  # type: ignore[attr-defined]
CPU = torch.device('cpu')
# What mixed precision computes in float32 on GPUs.
IN_FLOAT32 = frozenset(
    'exp log log2 log10 log1p expm1 pow rsqrt reciprocal softplus layer_norm group_norm norm '
    'cosine_similarity nll_loss kl_div l1_loss smooth_l1_loss huber_loss mse_loss dist cdist '
    'binary_cross_entropy_with_logits logsumexp prod softmax log_softmax cumsum cumprod sum '
    'interpolate grid_sample cross_entropy'.split()
)


def to_cpu(x: Any) -> Any:
    """An argument that names a GPU, with the CPU in its place."""
    gpu = isinstance(x, torch.device) and x.type == 'cuda'
    return CPU if gpu or (isinstance(x, str) and x.startswith('cuda')) else x


def to_float32(x: Any) -> Any:
    """A tensor of 16 bits in float32."""
    half = isinstance(x, Tensor) and x.dtype in (torch.bfloat16, torch.float16)
    return x.float() if half else x


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Optional[Tensor] = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: Optional[float] = None,
    **kwargs: Any,
) -> Tensor:
    """Attention by the kernel that GPUs run, which keeps no attention weights."""
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    if torch.is_autocast_enabled('cpu'):
        dtype = torch.get_autocast_dtype('cpu')
        query, key, value = (x.to(dtype) for x in (query, key, value))
        attn_mask = None if attn_mask is None else attn_mask.to(dtype)
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, learns, dropout_p, is_causal, scale=scale
    )[0]


def seen_again(recomputing: Callable[..., Any], gpu: bool) -> Callable[..., Any]:
    """torch's checkpointing, whose second forward pass :class:`Functions` would not see."""

    def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            if torch._C._len_torch_function_stack():
                return function(*given, **named)
            with Functions(gpu):
                return function(*given, **named)

        return recomputing(call, *args, **kwargs)

    return run


class Shadow(ExitStack):
    """A context in which tensors are made without memory.

    Args:
        seen: As :class:`Dispatch` has it.
        gpu: Run what a GPU would run, which need not be there.
    """

    def __init__(self, seen: Optional[SEEN] = None, gpu: bool = False) -> None:
        super().__init__()
        self.seen = seen
        self.gpu = gpu

    def __enter__(self) -> 'Shadow':
        super().__enter__()
        import torchvision  # noqa: F401

        ANSWERS[torch.ops.torchvision.nms.default] = suppress
        self.enter_context(warnings.catch_warnings())
        warnings.simplefilter('ignore')
        self.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        dispatch = self.enter_context(Dispatch(self.seen, self.gpu))
        self.enter_context(Functions(self.gpu))
        self.enter_context(bounds(self.gpu, dispatch))
        again = seen_again(checkpoint.checkpoint, self.gpu)
        self.enter_context(mock.patch.object(checkpoint, 'checkpoint', again))
        return self
