"""Running a model without its numbers: tensors have shapes, types and devices, and no memory.

torch's ``FakeTensorMode`` does this for everything whose shapes follow from shapes. What follows
from numbers (suppressing boxes, sampling them, sizes kept in tensors) is answered here: small
tensors whose numbers are known carry them along, and where numbers of the network would decide,
the most that can come out is taken: every box stays, every anchor is positive and negative.
"""

import warnings
from contextlib import ExitStack
from typing import Any, Callable, Dict, List, Optional
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from .bounds import bounds

aten = torch.ops.aten
KNOWN = 4096  # numbers of a tensor that are carried along
# mmcv suppresses the boxes of one class at a time where there are more
SUPPRESSED = 10000
SEEN = Callable[[Callable[..., Any], Any, dict, Any], None]


def numbers(tensor: Tensor) -> Optional[Tensor]:
    """The numbers of a tensor as a real one on the CPU; None where they are not known."""
    if not isinstance(tensor, FakeTensor):
        return tensor.detach() if not tensor.is_meta else None
    value = getattr(tensor, 'numbers', None)
    if value is None or getattr(value.untyped_storage(), 'forgotten', False):
        return None
    return value


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


def item(mode: Dispatch, func: Any, args: Any, kwargs: dict) -> Any:
    """A number; 1 where it is not known."""
    value = numbers(args[0])
    if value is None:
        return one(args[0].dtype)
    with no_dispatch():
        return func(value)


def one(dtype: torch.dtype) -> Any:
    """1 as Python has it."""
    return True if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1


def nonzero(mode: Dispatch, func: Any, args: Any, kwargs: dict) -> Any:
    """Places that are not zero; all where that is not known."""
    x = args[0]
    value = numbers(x)
    if value is None:
        return mode.made((x.numel(), x.dim()), torch.int64, x.device)
    with no_dispatch():
        value = func(value)
    return mode.real(value, x.device)


def places(mode: Dispatch, indices: Any) -> List[Any]:
    """Indices with masks written out as places."""
    written: List[Any] = []
    for index in indices:
        if isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8):
            found = nonzero(mode, aten.nonzero.default, (index,), {})
            written += mode.run(aten.unbind.int, (found, 1), {})
        else:
            written.append(index)
    return written


def take(mode: Dispatch, func: Any, args: Any, kwargs: dict) -> Any:
    """Index by places and masks."""
    return mode.run(func, (args[0], places(mode, args[1]), *args[2:]), kwargs)


def put(mode: Dispatch, func: Any, args: Any, kwargs: dict) -> Any:
    """Write at places and masks."""
    target, indices, values = args[:3]
    masks = [x for x in indices if isinstance(x, Tensor) and x.dtype == torch.bool]
    if masks and values.numel() == 1:
        return mode.run(func, args, kwargs)
    indices = places(mode, indices)
    wanted = indices[0].shape[0] if masks else None
    if masks and values.dim() and values.shape[0] not in (1, wanted):
        # as many values are written as there are places for
        values = mode.made((wanted, *values.shape[1:]), values.dtype, values.device)
    return mode.run(func, (target, indices, values, *args[3:]), kwargs)


def masked(mode: Dispatch, func: Any, args: Any, kwargs: dict) -> Any:
    """Select by a mask."""
    x, mask = args
    x, mask = torch.broadcast_tensors(x, mask)
    return take(mode, aten.index.Tensor, (x, [mask]), {})


def unique(mode: Dispatch, func: Any, args: Any, kwargs: dict) -> Any:
    """Different numbers: all where they are not known, one where there are very many.

    Those are labels, of which mmcv takes the boxes of one after another.
    """
    x = args[0]
    value = numbers(x)
    if value is None:
        size = x.numel() if x.numel() <= SUPPRESSED else 1
        shapes: Any = ((size,), x.shape, (size,))
        types = (x.dtype, torch.int64, torch.int64)
        return tuple(mode.made(shape, dtype, x.device) for shape, dtype in zip(shapes, types))
    with no_dispatch():
        found = func(value, *args[1:], **kwargs)
    return tuple(mode.real(out, x.device) for out in found)


def suppress(mode: Dispatch, func: Any, args: Any, kwargs: dict) -> Any:
    """Suppression of boxes: all stay."""
    boxes = args[0]
    number = min(len(boxes), SUPPRESSED)
    mode.made((number, -(-number // 64)), torch.int64, boxes.device)
    return mode.made((len(boxes),), torch.int64, boxes.device)


def repeat(mode: Dispatch, func: Any, args: Any, kwargs: dict) -> Any:
    """Repeat as often as numbers say."""
    repeats = args[0]
    size = kwargs.get('output_size')
    value = numbers(repeats)
    if value is not None:
        with no_dispatch():
            return mode.real(torch.repeat_interleave(value), repeats.device)
    return mode.made((len(repeats) if size is None else size,), torch.int64, repeats.device)


def count(mode: Dispatch, func: Any, args: Any, kwargs: dict) -> Any:
    """Count numbers."""
    x, least = args[0], kwargs.get('minlength', args[2] if len(args) > 2 else 0)
    value = numbers(x)
    if value is not None:
        with no_dispatch():
            return mode.real(torch.bincount(value, minlength=least), x.device)
    return mode.made((max(least, 1),), torch.int64, x.device)


def equal(mode: Dispatch, func: Any, args: Any, kwargs: dict) -> Any:
    """Whether two tensors hold the same; they do where that is not known."""
    known = [numbers(x) for x in args]
    if args[0].shape != args[1].shape:
        return False
    if any(value is None for value in known):
        return True
    with no_dispatch():
        return torch.equal(*known)  # type: ignore[arg-type]


def convolve(mode: Dispatch, func: Any, args: Any, kwargs: dict) -> Any:
    """Convolve; on a CPU oneDNN does it, in a layout of its own unless maps are channels-last."""
    x, weight, transposed = args[0], args[1], args[6]
    if mode.gpu or x.is_contiguous(memory_format=torch.channels_last):
        return mode.run(func, args, kwargs)
    shape = func(*args, **kwargs).shape
    given = [mode.made(t.shape, t.dtype, t.device) for t in (x, weight)]
    copies = [mode.made(shape, x.dtype, x.device)]
    del given
    if transposed:  # what comes out of it is copied once more
        copies.append(mode.made(shape, x.dtype, x.device))
    return mode.run(func, args, kwargs)


ANSWERS: Dict[Any, Callable[..., Any]] = {
    aten._local_scalar_dense.default: item,
    aten.nonzero.default: nonzero,
    aten.index.Tensor: take,
    aten.index_put_.default: put,
    aten.index_put.default: put,
    aten._index_put_impl_.default: put,
    aten.masked_select.default: masked,
    aten._unique2.default: unique,
    aten.repeat_interleave.Tensor: repeat,
    aten.bincount.default: count,
    aten.equal.default: equal,
    aten.convolution.default: convolve,
}


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
