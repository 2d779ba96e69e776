"""What runs an exported file: onnxruntime, or OpenVINO, with the same calls."""

import os.path as osp
from typing import Any, Callable, Dict, Optional

import numpy as np

from ..errors import UserError

Outputs = Dict[str, np.ndarray]


class OnnxRuntime:
    """A file in onnxruntime.

    Args:
        path: The file.
        threads: Threads; 0: as it chooses.
        content: What to read in the place of the file.
        providers: What it runs on.

    Attributes:
        name: What runs the file.
        stored: What the file says of itself, as it is stored.
    """

    name = 'onnxruntime'

    def __init__(
        self,
        path: str,
        threads: int = 0,
        content: Optional[bytes] = None,
        providers: Any = ('CPUExecutionProvider',),
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(
            content or path, options, providers=list(providers)
        )
        self.stored: Dict[str, str] = self.session.get_modelmeta().custom_metadata_map

    def run(self, image: np.ndarray) -> Outputs:
        """Outputs for images (B, C, H, W), by name."""
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, {'image': image})))


class OpenVino:
    """A file in OpenVINO, on the CPU; other arguments as :class:`OnnxRuntime`.

    Args:
        precision: That of what is no 8-bit integer: 'f32'; None: as OpenVINO chooses for the
            processor, bfloat16 where that has it.
    """

    name = 'openvino'

    def __init__(
        self,
        path: str,
        threads: int = 0,
        content: Optional[bytes] = None,
        precision: Optional[str] = 'f32',
    ) -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(content or path)
        said = dict(model.get_rt_info()).get('framework', {})
        self.stored: Dict[str, str] = {key: value.astype(str) for key, value in said.items()}
        options: Dict[str, Any] = dict(PERFORMANCE_HINT='LATENCY')
        if threads:
            options.update(INFERENCE_NUM_THREADS=threads)
        if precision:
            options.update(INFERENCE_PRECISION_HINT=precision)
        self.request = core.compile_model(model, 'CPU', options).create_infer_request()

    def run(self, image: np.ndarray) -> Outputs:
        """Outputs for images (B, C, H, W), by name."""
        found = {
            output.any_name: value for output, value in self.request.infer({'image': image}).items()
        }
        for name, value in found.items():
            if 0 in value.shape[1:]:  # OpenVINO 2026.4, of GPViT where stripes need padding
                raise RuntimeError(f'{name} is empty ({value.shape}): run it in onnxruntime')
        return found


def _own_precision(path: str, threads: int = 0, content: Optional[bytes] = None) -> OpenVino:
    return OpenVino(path, threads, content, precision=None)


ENGINES: Dict[str, Callable[..., Any]] = {
    'onnxruntime': OnnxRuntime,
    'openvino': OpenVino,
    'openvino-auto': _own_precision,
}


def open_engine(
    path: str,
    engine: str = 'onnxruntime',
    threads: int = 0,
    content: Optional[bytes] = None,
    **options: Any,
) -> Any:
    """Read a file, or its content.

    Args:
        path: The file.
        engine: Key of ``ENGINES``: 'openvino' computes in float32, 'openvino-auto' in the
            precision that OpenVINO chooses for the processor.
        threads: Threads; 0: as the engine chooses.
        content: What to read in the place of the file.
        options: Of the engine.

    Raises:
        UserError: If there is no such engine, it is not installed, or it cannot read the file.
    """
    if engine not in ENGINES:
        raise UserError(f"engine '{engine}' is not known: choose from {', '.join(ENGINES)}")
    if not osp.isfile(path):
        raise UserError(f'{path} does not exist: check the path')
    package = engine.split('-')[0]
    try:
        return ENGINES[engine](path, threads, content, **options)
    except ImportError as error:
        raise UserError(
            f'{path} is to run in {package}, which cannot be imported: pip install {package}'
        ) from error
    except Exception as error:  # their errors have no common class of their own
        raise UserError(f'{path}: {package} cannot read it: {first_line(error)}') from error


def first_line(error: Exception) -> str:
    """Of the message of an error of an engine."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith('Exception from')), str(error))
