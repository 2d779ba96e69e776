"""Checkpoints of plain data, which torch reads with ``weights_only=True``."""

from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor


def plain(value: Any) -> Any:
    """Make plain data of what mmengine puts into a checkpoint beside weights.

    Args:
        value: Dicts, lists and tuples; numpy's numbers become Python's, its arrays lists, and a
            history of losses a dict of two tensors.
    """
    if isinstance(value, HistoryBuffer):
        values, counts = (torch.from_numpy(np.array(part)) for part in value.data)
        return dict(values=values, counts=counts, max_length=value.max_length)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    return value


def histories(scalars: dict) -> None:
    """Turn histories of losses back into mmengine's; what is none stays, and is not resumed.

    Args:
        scalars: ``log_scalars`` of a message hub as :func:`plain` left it; changed in place.
    """
    for key, value in scalars.items():
        part = value if type(value) is dict else {}
        values, counts, most = (part.get(name) for name in ('values', 'counts', 'max_length'))
        if not (isinstance(values, Tensor) and isinstance(counts, Tensor) and type(most) is int):
            continue
        if values.ndim == counts.ndim == 1 and len(values) == len(counts):
            scalars[key] = HistoryBuffer(values.numpy(), counts.numpy(), most)
