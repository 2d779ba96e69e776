"""The module that answers for ``mmcv._ext``, and how Python comes to import it.

Nothing of mmcv, torchvision or torch is imported until ``mmcv.ops`` is.
"""

import importlib
import importlib.util
import os
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Callable, Dict, Optional, Tuple

from ..errors import UserError
from .installed import advice, is_ours

MODULE = 'mmcv._ext'
ATTENTION = 'mmcv.ops.multi_scale_deform_attn'
KEPT = 'multi_scale_deformable_attn_of_mmcv'  # the function there that is replaced
MODES = ('auto', 'compiled', 'torch')

_ALL = ('float16', 'float32', 'float64')
_SINGLE = ('float32',)
_NONE: Tuple[str, ...] = ()

# What is offered: by name in mmcv._ext the module here, and the types for which 'auto' leaves it
# to a compiled operator, on CPUs and on GPUs. mmcv has no bfloat16, and on CPUs no kernel for most.
OPERATORS: Dict[str, Tuple[str, Tuple[str, ...], Tuple[str, ...]]] = {
    'bbox_overlaps': ('boxes', _NONE, _ALL),
    'line_nms_forward': ('boxes', _NONE, _SINGLE),
    'nms': ('boxes', _SINGLE, _SINGLE),
    'nms_match': ('boxes', _SINGLE, _SINGLE),
    'softnms': ('boxes', _SINGLE, _SINGLE),
    'roi_align_forward': ('roi_align', _NONE, _ALL),
    'roi_align_backward': ('roi_align', _NONE, _ALL),
    'roi_pool_forward': ('roi_pool', _NONE, _ALL),
    'roi_pool_backward': ('roi_pool', _NONE, _ALL),
    'deform_roi_pool_forward': ('deform_roi_pool', _NONE, _ALL),
    'deform_roi_pool_backward': ('deform_roi_pool', _NONE, _ALL),
    'deform_conv_forward': ('deform_conv', _NONE, _ALL),
    'deform_conv_backward_input': ('deform_conv', _NONE, _ALL),
    'deform_conv_backward_parameters': ('deform_conv', _NONE, _ALL),
    'modulated_deform_conv_forward': ('deform_conv', _NONE, _ALL),
    'modulated_deform_conv_backward': ('deform_conv', _NONE, _ALL),
    'sigmoid_focal_loss_forward': ('focal_loss', _NONE, _ALL),
    'sigmoid_focal_loss_backward': ('focal_loss', _NONE, _ALL),
    'softmax_focal_loss_forward': ('focal_loss', _NONE, _ALL),
    'softmax_focal_loss_backward': ('focal_loss', _NONE, _ALL),
    'ms_deform_attn_forward': ('deform_attn', _NONE, _ALL),
    'ms_deform_attn_backward': ('deform_attn', _NONE, _ALL),
    'masked_im2col_forward': ('masked_conv', _NONE, _ALL),
    'masked_col2im_forward': ('masked_conv', _NONE, _ALL),
    'carafe_forward': ('carafe', _NONE, _ALL),
    'carafe_backward': ('carafe', _NONE, _ALL),
    'carafe_naive_forward': ('carafe', _NONE, _ALL),
    'carafe_naive_backward': ('carafe', _NONE, _ALL),
    'psamask_forward': ('psamask', _NONE, _ALL),
    'psamask_backward': ('psamask', _NONE, _ALL),
    'get_compiler_version': ('info', _NONE, _NONE),
    'get_compiling_cuda_version': ('info', _NONE, _NONE),
}


def mode() -> str:
    """Whose operators are used, by the environment variable ``GCVIT_MM_OPS``.

    Raises:
        UserError: If it is none of :data:`MODES`.
    """
    value = os.environ.get('GCVIT_MM_OPS') or 'auto'
    if value not in MODES:
        raise UserError(f"GCVIT_MM_OPS must be auto, compiled or torch, got '{value}'")
    return value


class Extension(ModuleType):
    """Answers for ``mmcv._ext``. Every operator has a name; those nobody has raise when called.

    Args:
        compiled: mmcv's compiled module, None where there is none.
        use: One of :data:`MODES`.
    """

    def __init__(self, compiled: Optional[ModuleType] = None, use: str = 'auto') -> None:
        super().__init__(MODULE, 'Operators of gcvit_mm in the place of mmcv._ext.')
        self._compiled = None if use == 'torch' else compiled
        self._use = use

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith('_'):
            raise AttributeError(f"module '{MODULE}' has no attribute '{name}'")
        found = self._choose(name)
        setattr(self, name, found)
        return found

    def _choose(self, name: str) -> Callable[..., Any]:
        theirs = getattr(self._compiled, name, None)
        if theirs is None:
            return own(name) if name in OPERATORS else refuse(name)
        if OPERATORS.get(name, ('info',))[0] == 'info':
            return theirs
        if name == 'roi_align_forward':
            theirs = contiguous_map(theirs)
        return explained(theirs) if self._use == 'compiled' else self._by_input(name, theirs)

    def _by_input(self, name: str, theirs: Callable[..., Any]) -> Callable[..., Any]:
        """Compiled operators for the devices and types that they are good at, ours otherwise."""
        import torch

        ours = own(name)
        cpu, gpu = OPERATORS[name][1:]
        if self._compiled is None or not built_for_gpus(self._compiled):
            gpu = ()
        types = {
            device: {getattr(torch, dtype) for dtype in names}
            for device, names in (('cpu', cpu), ('cuda', gpu))
        }

        def operator(tensor: Any, *args: Any, **kwargs: Any) -> Any:
            good = tensor.dtype in types.get(tensor.device.type, ())
            return (theirs if good else ours)(tensor, *args, **kwargs)

        return operator


def own(name: str) -> Callable[..., Any]:
    """Our operator of that name."""
    return getattr(importlib.import_module(f'{__package__}.{OPERATORS[name][0]}'), name)


def refuse(name: str) -> Callable[..., Any]:
    """An operator that says that there is none."""

    def operator(*args: Any, **kwargs: Any) -> Any:
        raise UserError(
            f"gcvit_mm does not offer mmcv's operator '{name}'; to compile it: {advice()}"
        )

    return operator


def explained(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """A compiled operator that says what to do about a type it has no kernel for."""

    def operator(*args: Any, **kwargs: Any) -> Any:
        try:
            return compiled(*args, **kwargs)
        except RuntimeError as error:
            if 'BFloat16' not in str(error):
                raise
            raise UserError(
                f"mmcv's compiled operators know no bfloat16 ({error}): leave out --amp, or "
                "GCVIT_MM_OPS=compiled, so that gcvit_mm's operators take it"
            ) from error

    return operator


def contiguous_map(roi_align_forward: Callable[..., Any]) -> Callable[..., Any]:
    """mmcv's RoIAlign reads any map on a CPU as if it were contiguous."""

    def operator(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        return roi_align_forward(tensor.contiguous(), *args, **kwargs)

    return operator


def built_for_gpus(compiled: ModuleType) -> bool:
    """Whether compiled operators have kernels for GPUs."""
    return compiled.get_compiling_cuda_version() != 'not available'


def find_compiled(path: Any) -> Optional[ModuleSpec]:
    """Where mmcv's compiled module is.

    Args:
        path: ``mmcv.__path__``.
    """
    spec = PathFinder.find_spec(MODULE, path)
    return None if spec is None or is_ours(spec.origin) else spec


def extension() -> Extension:
    """The module for ``mmcv._ext``, over the compiled one where that is there and imports."""
    use, compiled = mode(), None
    spec = None if use == 'torch' else find_compiled(sys.modules['mmcv'].__path__)
    if spec is not None and spec.loader is not None:
        try:
            compiled = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(compiled)
        except ImportError as error:
            if use == 'compiled':
                raise
            compiled, reason = None, ' '.join(str(error).split())
            warnings.warn(f'gcvit_mm stands in for {spec.origin}: {reason}', stacklevel=2)
    elif use == 'compiled':
        raise ModuleNotFoundError(
            f'GCVIT_MM_OPS=compiled, but mmcv is not compiled: {advice()}', name=MODULE
        )
    return Extension(compiled, use)


class _Loader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return extension()

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to do."""


class Finder(MetaPathFinder):
    """Finds :class:`Extension` for ``mmcv._ext``; has :func:`improve` see mmcv's attention."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Optional[ModuleSpec]:
        """Find one of the two modules; None for others."""
        if name == MODULE and path is not None:
            if mode() == 'compiled' and find_compiled(path) is None:
                return None
            return ModuleSpec(MODULE, _Loader(), origin=__package__)
        return spec_and_then(name, path, improve) if name == ATTENTION else None


def spec_and_then(
    name: str, path: Any, after: Callable[[ModuleType], None]
) -> Optional[ModuleSpec]:
    """Find a module as Python does; hand it to a function once it is imported."""
    spec = PathFinder.find_spec(name, path)
    if spec is not None and spec.loader is not None:
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            after(module)

        setattr(spec.loader, 'exec_module', exec_module)  # noqa: B010
    return spec


def improve(attention: ModuleType) -> None:
    """Give mmcv's module of deformable attention our form of what it runs without its kernel."""
    if mode() != 'compiled':
        from .deform_attn import multi_scale_deformable_attn_pytorch as ours

        setattr(attention, KEPT, getattr(attention, ours.__name__))
        setattr(attention, ours.__name__, ours)


def stand_in() -> None:
    """Have ``mmcv._ext`` answered for from now on, also where ``mmcv.ops`` is imported already.

    Raises:
        UserError: If ``GCVIT_MM_OPS`` is wrong.
    """
    use = mode()
    if any(isinstance(finder, Finder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, Finder())
    compiled = sys.modules.get(MODULE)
    if compiled is None or isinstance(compiled, Extension) or is_ours(compiled.__file__):
        return
    module = Extension(compiled, use)
    module.__spec__ = ModuleSpec(MODULE, _Loader(), origin=__package__)
    sys.modules[MODULE] = module
    setattr(sys.modules['mmcv'], '_ext', module)  # noqa: B010
    for name, user in list(sys.modules.items()):
        if name.startswith('mmcv.ops.') and getattr(user, 'ext_module', None) is compiled:
            setattr(user, 'ext_module', module)  # noqa: B010
    if ATTENTION in sys.modules:
        improve(sys.modules[ATTENTION])
