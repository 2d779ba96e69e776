"""Which memory is alive, whose it is and what for, at every moment of a step."""

import weakref
from collections import defaultdict
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from torch import Tensor
from torch.utils.flop_counter import flop_registry

BLOCK = 512  # torch's allocator of GPU memory hands out multiples of this
Owner = Tuple[str, str]  # part of the model, cause


class Moment(NamedTuple):
    """Memory after one allocation.

    Attributes:
        phase: 'forward', 'backward' or 'optimizer'.
        bytes: What is alive in all.
        owners: Bytes by part and cause.
    """

    phase: str
    bytes: int
    owners: Dict[Owner, int]


class Tracker:
    """Follows storages from when they are made until nothing holds them.

    Args:
        gpu: Whether memory is handed out as that of a GPU is.
        every: Bytes of change after which a moment is kept for a plot; 0 keeps the peak alone.
    """

    def __init__(self, gpu: bool = False, every: int = 0) -> None:
        self.block = BLOCK if gpu else 1
        self.every = every
        self.part, self.cause = 'rest', 'activations'
        self.now = 0
        self.flops = 0
        self.owners: Dict[Owner, int] = defaultdict(int)
        self.peak = Moment('', 0, {})
        self.moments: List[Moment] = []
        self.last = 0
        self.alive: Dict[int, Tuple[Any, int, Owner]] = {}

    def seen(self, func: Any, args: Any, kwargs: dict, out: Any) -> None:
        """Look at what an operation returned."""
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, Tensor):
                self.add(x)
        formula = flop_registry.get(getattr(func, 'overloadpacket', None))
        if formula is not None:
            self.flops += formula(*args, out_val=out, **kwargs)

    def add(self, tensor: Tensor) -> None:
        """Follow the memory of a tensor."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.alive:
            return
        size = storage.nbytes()
        size = -(-size // self.block) * self.block
        owner = (self.part, self.cause)
        self.alive[key] = (weakref.ref(storage, lambda _: self.drop(key)), size, owner)
        self.change(owner, size)

    def drop(self, key: int) -> None:
        """Forget memory that nothing holds any more."""
        _, size, owner = self.alive.pop(key)
        self.change(owner, -size)

    def change(self, owner: Owner, size: int) -> None:
        """Count bytes."""
        self.now += size
        self.owners[owner] += size
        if self.now > self.peak.bytes:
            self.peak = self.moment()
        if self.every and abs(self.now - self.last) >= self.every:
            self.last = self.now
            self.moments.append(self.moment())

    def moment(self) -> Moment:
        """The state of now."""
        return Moment(self.cause, self.now, {k: v for k, v in self.owners.items() if v})

    def rename(self, tensor: Optional[Tensor], part: str, cause: str) -> None:
        """Say what a tensor that is followed is for."""
        if tensor is None:
            return
        self.add(tensor)
        key = tensor.untyped_storage()._cdata
        ref, size, owner = self.alive[key]
        self.alive[key] = (ref, size, (part, cause))
        self.owners[owner] -= size
        self.owners[part, cause] += size
