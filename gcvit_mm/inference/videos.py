"""Videos: read with ``mmcv.VideoReader``, written frame by frame."""

import math
import os
import os.path as osp
from contextlib import contextmanager
from itertools import islice
from typing import Any, Callable, Iterator, Optional

import cv2
import mmcv
import numpy as np
from rich.progress import track

from ..cli.outputs import whole_output
from ..errors import UserError
from ..messages import printable
from .predictor import Predictor
from .results import Prediction

FPS = 25.0  # where a video does not tell its own


def predict_video(
    predictor: Predictor,
    path: str,
    out_file: Optional[str] = None,
    score_thr: float = 0.3,
    keep: Optional[Callable[[str, Prediction], Any]] = None,
    batch_size: int = 1,
) -> int:
    """Predict a video frame by frame and draw a video of the same rate, without its sound.

    Args:
        predictor: The model.
        path: The video.
        out_file: File to write, MPEG-4: its name should end in .mp4. None: nothing is drawn. Where
            what is drawn has an odd width or height, the codec leaves a column or row out.
        score_thr: Least score of a box that is drawn.
        keep: Gets a name for every frame, counted from 0 ('street_000012.png' of street.mp4), and
            what is said of it.
        batch_size: Frames that go through the model at once.

    Returns:
        The number of frames that could be read.

    Raises:
        UserError: If the file cannot be written.
    """
    reader, count = mmcv.VideoReader(path), 0
    stem = osp.splitext(osp.basename(path))[0]
    rate = reader.fps if math.isfinite(reader.fps) and reader.fps > 0 else FPS
    with video_writer(out_file, rate) as write:
        frames = iter(track(reader, printable(osp.basename(path)), total=len(reader) or None))
        while batch := [mmcv.bgr2rgb(frame) for frame in islice(frames, batch_size)]:
            for result in predictor.predict(batch, batch_size=batch_size):
                if keep:
                    keep(f'{stem}_{count:06d}.png', result)
                if out_file:
                    write(result.draw(score_thr=score_thr))
                count += 1
    return count


@contextmanager
def video_writer(path: Optional[str], rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Give a function that writes frames (H, W, 3) in RGB, all of one size; the file is whole."""
    if path is None:
        yield lambda frame: None
        return
    with whole_output(path) as partial:
        writer = cv2.VideoWriter()

        def write(frame: np.ndarray) -> None:
            if not writer.isOpened():
                code = cv2.VideoWriter_fourcc(*'mp4v')  # type: ignore[attr-defined]
                writer.open(partial, code, rate, frame.shape[1::-1])
            writer.write(mmcv.rgb2bgr(frame))

        try:
            yield write
        finally:
            writer.release()
        if not os.path.getsize(partial):
            raise UserError(f'cannot write {path}: name a file that ends in .mp4')
