"""A clock that knows which part of a model is running, forward and backward."""

from __future__ import annotations

import re
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, Callable, Iterator, NamedTuple

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

REST, OPTIMIZER, HOOKS = 'the rest', 'optimizer', 'hooks'
# Children of a model, and of its RoI head, that are parts.
PARTS = re.compile(r'backbone|neck|encoder|decoder|.*head|.*roi_extractor')
# Methods of a part, and what is behind its name for the time that they take themselves.
METHODS = {
    '': ('forward',),
    ': losses and assignment': ('loss', 'loss_by_feat', 'loss_and_predict', 'loss_and_target'),
    ': post-processing': ('predict', 'predict_by_feat'),
}
# Methods of whole models that are parts too: of DINO and its like, of segmentors.
OF_MODEL = dict(pre_decoder='query_selection', postprocess_result='post-processing')


class Part(NamedTuple):
    """What a share of a step belongs to."""

    name: str
    backward: bool = False

    @property
    def head(self) -> str:
        """The name without what says that it is of losses or results."""
        return self.name.partition(':')[0]


class Clock:
    """Shares a growing quantity out among the parts that run while it grows.

    A part gets what grows while it runs itself; what it calls of another part is the other's. So
    the parts sum up to the whole, with ``REST`` for what none of them claims.

    A backward pass has no calls, but nodes of the autograd graph. A node belongs to the part that
    made it: all that leads to the results of a part, and did not lead to its inputs. What a node
    does is its part's, so are forward passes that it repeats (``with_cp``).

    Args:
        read: Reads the quantity: seconds, or multiply-accumulates so far.

    Attributes:
        spent: What each part has got.
    """

    def __init__(self, read: Callable[[], float]) -> None:
        self.read = read
        self.spent: dict[Part, float] = defaultdict(float)
        self.stack = [Part(REST)]
        self.owners: dict[Any, str] = {}  # nodes of the graph, and the names of their parts
        self.last = read()

    def settle(self) -> None:
        """Give the running part what has grown since it began."""
        now = self.read()
        self.spent[self.stack[-1]] += now - self.last
        self.last = now

    @contextmanager
    def part(self, part: Part) -> Iterator[None]:
        """Let a part run in this context."""
        self.settle()
        self.stack.append(part)
        try:
            yield
        finally:
            self.settle()
            self.stack.pop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let what grows in this context, the work of the clock itself, belong to no part."""
        self.settle()
        try:
            yield
        finally:
            self.last = self.read()

    def follow(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """A function that runs as a part; with its attributes, which schedulers look at."""

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            outside = self.stack[-1]
            if outside.backward:  # repeated by a node, whose part it belongs to
                return function(*args, **kwargs)
            with self.paused():
                self.claim((args, kwargs), outside.name)
            with self.part(Part(name)):
                out = function(*args, **kwargs)
            with self.paused():
                self.claim(out, name)
            return out

        return run

    def follow_backward(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that runs the backward pass of its first argument, node by node."""

        def run(loss: Tensor, *args: Any, **kwargs: Any) -> Any:
            with self.part(Part(REST, True)):
                with self.paused():
                    self.claim(loss, REST)
                    handles = [
                        node.register_prehook(self.enter(Part(name, True)))
                        for node, name in self.owners.items()
                        if node.next_functions  # a leaf runs right behind the node that made it
                    ]
                out = function(loss, *args, **kwargs)
                with self.paused():
                    for handle in handles:
                        handle.remove()
                    self.owners.clear()
            return out

        return run

    def enter(self, part: Part) -> Callable[[Any], None]:
        """A hook that lets a part run from now on."""

        def hook(gradients: Any) -> None:
            if self.stack[-1] != part:
                self.settle()
                self.stack[-1] = part

        return hook

    def claim(self, values: Any, name: str) -> None:
        """Give all nodes that lead to tensors, and belong to no part yet, to a part."""
        nodes = [x.grad_fn for x in tree_flatten(values)[0] if isinstance(x, Tensor)]
        while nodes:
            node = nodes.pop()
            if node is not None and node not in self.owners:
                self.owners[node] = name
                nodes += [behind for behind, _ in node.next_functions]


# ---------------------------------------------------------------- what is followed
def parts_of(module: nn.Module, prefix: str = '') -> Iterator[tuple[str, nn.Module]]:
    """Names and modules of the parts of a model; those of a RoI head are parts too."""
    for name, child in module.named_children():
        if PARTS.fullmatch(name):
            several = isinstance(child, nn.ModuleList)
            for number, one in enumerate(child) if several else [(0, child)]:
                path = f'{prefix}{name}.{number}' if several else f'{prefix}{name}'
                yield path, one
                if hasattr(one, 'bbox_roi_extractor'):
                    yield from parts_of(one, f'{path}.')


def methods_of(model: nn.Module) -> Iterator[tuple[Any, str, str]]:
    """Objects, their methods, and the name of the part that the method runs."""
    yield model.data_preprocessor, 'forward', 'preprocessing'
    for method, name in OF_MODEL.items():
        if hasattr(model, method):
            yield model, method, name
    for path, part in parts_of(model):
        for suffix, methods in METHODS.items():
            for method in methods:
                if hasattr(part, method):
                    yield part, method, path + suffix


@contextmanager
def followed(
    clock: Clock, model: nn.Module, wrapper: Any = None, hooks: Any = None
) -> Iterator[None]:
    """Let a clock follow the parts of a model, from the begin of this context to its end.

    Args:
        clock: The clock.
        model: A detector, segmentor or classifier.
        wrapper: mmengine's wrapper of its optimizer, if it trains.
        hooks: Has a method ``call`` that is called around its steps, if any are.
    """
    with ExitStack() as stack:
        for owner, method, name in methods_of(model):
            function = clock.follow(getattr(owner, method), name)
            stack.enter_context(replaced(owner, method, function))
        if wrapper is not None:
            backward = clock.follow_backward(wrapper.backward)
            stack.enter_context(replaced(wrapper, 'backward', backward))
            for method in ('step', 'zero_grad'):
                function = clock.follow(getattr(wrapper, method), OPTIMIZER)
                stack.enter_context(replaced(wrapper, method, function))
        if hooks is not None:
            stack.enter_context(replaced(hooks, 'call', clock.follow(hooks.call, HOOKS)))
        clock.last = clock.read()
        yield
        clock.settle()


@contextmanager
def replaced(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Put a function in the place of a method of one object."""
    before = vars(owner).get(name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        delattr(owner, name)
        if before is not None:
            setattr(owner, name, before)
