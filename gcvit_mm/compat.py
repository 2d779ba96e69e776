"""Every shim for a release of torch or mmengine; the releases stand beside each.

Tried: torch 2.1, 2.11 and 2.14, mmengine 0.10.7 and 0.10.12.
"""

import pickle
import platform
from types import SimpleNamespace
from typing import Any, Dict, Sequence

import torch
from mmengine.utils import digit_version

try:
    from torch.compiler import is_compiling as is_compiling
except ImportError:  # torch < 2.3
    from torch._utils import is_compiling as is_compiling


def torch_before(version: str) -> bool:
    """Tell whether the torch that is installed is older than a version."""
    return digit_version(torch.__version__) < digit_version(version)


# torch < 2.2 cannot prove it, and makes a graph for each answer
PROVES_SIZES = not torch_before('2.2')


def provably_equal(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Tell whether sizes are equal for every image while a model is compiled."""
    if not PROVES_SIZES:
        return tuple(a) == tuple(b)
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return all(statically_known_true(x == y) for x, y in zip(a, b))


def cpu_has_bfloat16() -> bool:
    """Tell whether this processor has instructions for bfloat16."""
    # oneDNN's answer is yes for all of AVX-512, which computes in float32 where they are missing
    ask = getattr(torch.cpu, '_is_avx512_bf16_supported', None)  # torch >= 2.6
    if ask is None or platform.machine() not in ('x86_64', 'AMD64'):
        ask = torch.ops.mkldnn._is_mkldnn_bf16_supported
    return bool(ask())


def cpu_has_fused(optimizer: Any) -> bool:
    """Tell whether torch has an optimizer as one kernel on CPUs, by the name of its class."""
    return optimizer in ('Adam', 'AdamW', 'SGD') and not torch_before('2.4')


def keep_cudnn_attention_out() -> None:
    """Leave cuDNN's attention out of torch's choice of kernels, for the whole process.

    It rejects a bias that needs a gradient, misreads 32-bit masks beside 16-bit queries
    (pytorch/pytorch#191612), and gives NaN gradients at windows of 8 and 24 (#196678). torch < 2.5
    has no switch, or no such kernels.
    """
    switch = getattr(torch.backends.cuda, 'enable_cudnn_sdp', None)
    if switch is not None:
        switch(False)


def load_weights_only(path: str, harmless: Dict[str, Any]) -> Any:
    """Read a file that may name nothing but weights and what is known to be harmless.

    Args:
        path: The file.
        harmless: Things by the names that a file has for them.

    Raises:
        pickle.UnpicklingError: If it names anything else; the message says 'weights_only'.
    """
    if not torch_before('2.6'):
        with torch.serialization.safe_globals([(v, k) for k, v in harmless.items()]):
            return torch.load(path, map_location='cpu', weights_only=True)
    # Older ones cannot be told what else is harmless; restricted as pickle's manual describes.
    from torch import _weights_only_unpickler

    known = {**_weights_only_unpickler._get_allowed_globals(), **harmless}

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            module = 'builtins' if module == '__builtin__' else module  # as protocol 2 has it
            if f'{module}.{name}' not in known:
                raise pickle.UnpicklingError(f'weights_only: {module}.{name} is asked for')
            return known[f'{module}.{name}']

    restricted = SimpleNamespace(
        __name__='restricted',
        Unpickler=Unpickler,
        load=lambda file, **options: Unpickler(file, **options).load(),
    )
    return torch.load(path, map_location='cpu', pickle_module=restricted, weights_only=False)


def older_exporter() -> Dict[str, Any]:
    """Arguments that make ``torch.onnx.export`` trace; torch >= 2.5 has another exporter too."""
    return {'dynamo': False} if 'dynamo' in torch.onnx.export.__code__.co_varnames else {}


def begin_anew(loader: Any, sampler: Any, iterator: Any) -> None:
    """Drop what a training loop of mmengine < 0.10.12 has loaded before it was seeded.

    Such a loop also loads the batches that a resumed run passes over.

    Args:
        loader: Its data loader.
        sampler: The sampler of that.
        iterator: Its iterator, endless.
    """
    if hasattr(sampler, '_indices_of_rank'):
        sampler.indices = sampler._indices_of_rank()
    loader._iterator = None  # persistent workers hold the data set as it was
    iterator._iterator = iter(loader)
