"""Exported files with products of 8-bit integers: scales are measured on pictures."""

from typing import Any, Dict, Iterator, List, Optional, Sequence

import numpy as np

from ..errors import UserError
from ..messages import quiet
from .engines import first_line
from .metadata import write
from .predictor import Predictor

# Everything else (softmax, norms, boxes) stays in float32: it takes little time, and what it
# computes is spread over ranges that 256 steps do not cover.
OPERATORS = ('Conv', 'Gemm', 'MatMul')


class Recorder:
    """An engine that remembers what it was given.

    Args:
        engine: What runs the file.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.name = engine.name
        self.seen: List[np.ndarray] = []

    def run(self, image: np.ndarray) -> Dict[str, np.ndarray]:
        """Outputs for images (B, C, H, W), by name."""
        self.seen.append(image)
        return self.engine.run(image)


def inputs_for(path: str, pictures: Sequence[Any], threads: int = 0) -> Iterator[np.ndarray]:
    """What a file is given for pictures: prepared, normalised, in windows, as it asks for.

    Args:
        path: The file.
        pictures: What :class:`gcvit_mm.deploy.Predictor` takes.
        threads: Threads; 0: as onnxruntime chooses.

    Yields:
        Images (B, C, H, W).

    Raises:
        UserError: If the file cannot be run, or a picture not be read.
    """
    predictor = Predictor(path, threads=threads)
    recorder = predictor.engine = Recorder(predictor.engine)
    for picture in pictures:
        predictor.predict(picture)
        yield from recorder.seen
        recorder.seen.clear()


def quantise(path: str, out: str, pictures: Sequence[Any], threads: int = 0) -> None:
    """Write a file whose convolutions and products with weights take 8-bit integers.

    Weights have a scale for each channel, activations one for each tensor, from the least to the
    largest value met. The products of attention stay in float32.

    Args:
        path: An exported file.
        out: File to write.
        pictures: Pictures to measure on, as :func:`inputs_for` takes them.
        threads: Threads; 0: as onnxruntime chooses.

    Raises:
        UserError: If a package is missing, the file is quantised already or cannot be.
    """
    try:
        from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    except ImportError as error:
        raise UserError('8 bits need onnx and onnxruntime: pip install onnx onnxruntime') from error
    facts = Predictor(path).facts
    if is_quantised(facts):
        raise UserError(f'{path} has 8 bits already: name the file it was made of')

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images = inputs_for(path, pictures, threads)

        def get_next(self) -> Optional[Dict[str, np.ndarray]]:
            image = next(self.images, None)
            return None if image is None else {'image': image}

    try:
        with quiet():
            quantize_static(
                path,
                out,
                Reader(),
                op_types_to_quantize=list(OPERATORS),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options=dict(MatMulConstBOnly=True),
            )
    except UserError:
        raise
    except Exception as error:  # of protobuf, onnx and onnxruntime
        raise UserError(f'{path} cannot be quantised: {first_line(error)}') from error
    # in the place of all that is stored: onnxruntime adds words of its own
    write(out, dict(facts, int8=dict(pictures=len(pictures))))


def is_quantised(facts: Dict[str, Any]) -> bool:
    """Tell whether a file that says this of itself has 8 bits."""
    return 'int8' in facts
