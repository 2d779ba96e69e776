"""What operations give whose results depend on numbers, where tensors have none.

Numbers that are known are used. Where numbers of the network would decide, the most that can come
out is taken. Each answer has the mode that runs operations, the operation and its arguments.
"""

from typing import Any, Callable, Dict, List, Optional

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._mode_utils import no_dispatch

aten = torch.ops.aten
# mmcv suppresses the boxes of one class at a time where there are more
SUPPRESSED = 10000


def numbers(tensor: Tensor) -> Optional[Tensor]:
    """The numbers of a tensor as a real one on the CPU; None where they are not known."""
    if not isinstance(tensor, FakeTensor):
        return tensor.detach() if not tensor.is_meta else None
    value = getattr(tensor, 'numbers', None)
    if value is None or getattr(value.untyped_storage(), 'forgotten', False):
        return None
    return value


def item(mode: Any, func: Any, args: Any, kwargs: dict) -> Any:
    """A number; 1 where it is not known."""
    value = numbers(args[0])
    if value is None:
        return one(args[0].dtype)
    with no_dispatch():
        return func(value)


def one(dtype: torch.dtype) -> Any:
    """1 as Python has it."""
    return True if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1


def nonzero(mode: Any, func: Any, args: Any, kwargs: dict) -> Any:
    """Places that are not zero; all where that is not known."""
    x = args[0]
    value = numbers(x)
    if value is None:
        return mode.made((x.numel(), x.dim()), torch.int64, x.device)
    with no_dispatch():
        value = func(value)
    return mode.real(value, x.device)


def places(mode: Any, indices: Any) -> List[Any]:
    """Indices with masks written out as places."""
    written: List[Any] = []
    for index in indices:
        if isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8):
            found = nonzero(mode, aten.nonzero.default, (index,), {})
            written += mode.run(aten.unbind.int, (found, 1), {})
        else:
            written.append(index)
    return written


def take(mode: Any, func: Any, args: Any, kwargs: dict) -> Any:
    """Index by places and masks."""
    return mode.run(func, (args[0], places(mode, args[1]), *args[2:]), kwargs)


def put(mode: Any, func: Any, args: Any, kwargs: dict) -> Any:
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


def masked(mode: Any, func: Any, args: Any, kwargs: dict) -> Any:
    """Select by a mask."""
    x, mask = args
    x, mask = torch.broadcast_tensors(x, mask)
    return take(mode, aten.index.Tensor, (x, [mask]), {})


def unique(mode: Any, func: Any, args: Any, kwargs: dict) -> Any:
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


def suppress(mode: Any, func: Any, args: Any, kwargs: dict) -> Any:
    """Suppression of boxes: all stay."""
    boxes = args[0]
    number = min(len(boxes), SUPPRESSED)
    mode.made((number, -(-number // 64)), torch.int64, boxes.device)
    return mode.made((len(boxes),), torch.int64, boxes.device)


def repeat(mode: Any, func: Any, args: Any, kwargs: dict) -> Any:
    """Repeat as often as numbers say."""
    repeats = args[0]
    size = kwargs.get('output_size')
    value = numbers(repeats)
    if value is not None:
        with no_dispatch():
            return mode.real(torch.repeat_interleave(value), repeats.device)
    return mode.made((len(repeats) if size is None else size,), torch.int64, repeats.device)


def count(mode: Any, func: Any, args: Any, kwargs: dict) -> Any:
    """Count numbers."""
    x, least = args[0], kwargs.get('minlength', args[2] if len(args) > 2 else 0)
    value = numbers(x)
    if value is not None:
        with no_dispatch():
            return mode.real(torch.bincount(value, minlength=least), x.device)
    return mode.made((max(least, 1),), torch.int64, x.device)


def equal(mode: Any, func: Any, args: Any, kwargs: dict) -> Any:
    """Whether two tensors hold the same; they do where that is not known."""
    known = [numbers(x) for x in args]
    if args[0].shape != args[1].shape:
        return False
    if any(value is None for value in known):
        return True
    with no_dispatch():
        return torch.equal(*known)  # type: ignore[arg-type]


def convolve(mode: Any, func: Any, args: Any, kwargs: dict) -> Any:
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
