"""What mmcv's compiled module says about how it was built."""

from ..version import __version__


def get_compiler_version() -> str:
    """Shown by mmengine's report on the environment as 'MMCV Compiler'."""
    return f'none (gcvit_mm {__version__})'


def get_compiling_cuda_version() -> str:
    """mmcv's word for a build without CUDA."""
    return 'not available'
