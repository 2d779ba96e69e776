"""``python -m gcvit_mm show CONFIG CHECKPOINT``: a page on this machine to look at a model."""

import argparse
import io
import os
from typing import Any, Callable, List, Optional, Tuple

import mmcv
import numpy as np

from .. import visualization
from ..backbones.base import BaseBackbone
from ..cli.arguments import add_config_arguments
from ..cli.config import load_config
from ..cli.running import run_tool
from ..errors import UserError
from .maps import find_attention
from .predictor import Predictor, load
from .results import Prediction

HERE = '127.0.0.1'  # nobody else reaches it
FONT = ['system-ui', 'sans-serif']  # gradio's own are fetched from the network


def predict(predictor: Predictor, image: Optional[np.ndarray]) -> Optional[Prediction]:
    """What the model says of an image (H, W, 3) in RGB; of none, nothing."""
    return None if image is None else predictor.predict(image)[0]


def draw(prediction: Optional[Prediction], score_thr: float) -> Tuple[Optional[np.ndarray], str]:
    """The image with what was found in it, and in words."""
    if prediction is None:
        return None, ''
    return prediction.draw(score_thr=score_thr), prediction.above(score_thr).summary()


def look(
    predictor: Predictor, image: np.ndarray, pixel: Tuple[int, int], layers: Optional[List[str]]
) -> np.ndarray:
    """Draw where a pixel ``(x, y)`` of an image (H, W, 3) in RGB looks, as such an image.

    Raises:
        UserError: If no layer is chosen, the test pipeline cuts the pixel off, or the backbone is
            another package's.
    """
    if layers == []:
        raise UserError('choose at least one block')
    found, placement = find_attention(predictor, image, pixel, layers)
    sheet = io.BytesIO()
    visualization.draw(image, pixel, found, placement, sheet)
    return mmcv.imfrombytes(sheet.getvalue(), channel_order='rgb')


def find_layers(predictor: Predictor) -> Tuple[List[str], List[str]]:
    """Blocks whose attention can be drawn, and the last one of each kind; of others' none."""
    backbone = getattr(predictor.model, 'backbone', None)
    if not isinstance(backbone, BaseBackbone):
        return [], []
    return list(visualization.all_blocks(backbone)), list(visualization.find_blocks(backbone))


def find_gradio() -> Any:
    """Import gradio.

    Raises:
        UserError: If it is not installed.
    """
    os.environ.setdefault('GRADIO_ANALYTICS_ENABLED', 'False')  # read when it is imported
    try:
        import gradio
    except ImportError:
        raise UserError("show needs gradio: pip install 'gradio>=6'") from None
    return gradio


def build_page(predictor: Predictor, title: str, score_thr: float) -> Any:
    """Lay the page out: image and settings at the left, what the model says of it at the right.

    Raises:
        UserError: If gradio is not installed.
    """
    gradio = find_gradio()

    names, chosen = find_layers(predictor)

    def attempt(function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(predictor, *args)
        except UserError as error:  # shown in the page
            raise gradio.Error(str(error), print_exception=False) from None

    def on_image(image: Optional[np.ndarray], threshold: float) -> tuple:
        prediction = attempt(predict, image)
        return (prediction, *draw(prediction, threshold), None, None)

    def on_click(image: np.ndarray, wanted: List[str], event: gradio.SelectData) -> tuple:  # type: ignore
        pixel = int(event.index[0]), int(event.index[1])
        return pixel, attempt(look, image, pixel, wanted if names else None)

    def on_blocks(image: Optional[np.ndarray], pixel: Any, wanted: List[str]) -> Any:
        return attempt(look, image, pixel, wanted) if pixel and wanted else None

    shown: dict = dict(interactive=False, buttons=['fullscreen', 'download'])  # no sharing
    alone: dict = dict(api_visibility='private')  # called by this page only
    with gradio.Blocks(title=title, analytics_enabled=False) as page:
        gradio.Markdown(f'## {title}\nDrop an image; click into it to see where that pixel looks.')
        prediction, pixel = gradio.State(), gradio.State()
        with gradio.Row():
            with gradio.Column():
                image = gradio.Image(
                    type='numpy',
                    sources=['upload', 'clipboard'],
                    buttons=[],
                    label='image',
                    elem_id='image',
                )
                threshold = gradio.Slider(0, 1, score_thr, step=0.01, label='least score of a box')
                blocks = gradio.CheckboxGroup(
                    names, value=chosen, label='blocks', visible=bool(names)
                )
            with gradio.Column():
                drawn = gradio.Image(label='prediction', elem_id='drawn', **shown)
                words = gradio.Textbox(label='found', elem_id='found')
        sheet = gradio.Image(show_label=False, elem_id='sheet', **shown)
        found = [prediction, drawn, words, pixel, sheet]
        image.change(on_image, [image, threshold], found, **alone)
        threshold.release(draw, [prediction, threshold], [drawn, words], **alone)
        image.select(on_click, [image, blocks], [pixel, sheet], **alone)
        blocks.change(on_blocks, [image, pixel, blocks], sheet, **alone)
    return page


def serve(page: Any, port: Optional[int], **options: Any) -> Any:
    """Serve a page to this machine alone; it fetches nothing, and reads no file but its own.

    Raises:
        UserError: If something else listens there.
    """
    theme = find_gradio().themes.Default(font=FONT, font_mono=['monospace'])
    here: dict = dict(server_name=HERE, server_port=port, share=False, ssr_mode=False)
    try:
        return page.launch(**here, theme=theme, footer_links=[], quiet=True, **options)
    except OSError as error:
        raise UserError(f'port {port} of this machine is taken: choose another (--port)') from error


def main(argv: List[str]) -> int:
    """Open the page and serve it until Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog='python -m gcvit_mm show', description='Look at a model in the browser.'
    )
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--score-thr', type=float, default=0.3, help='least score of a box (0.3)')
    parser.add_argument('--device', help="e.g. 'cuda:1' or 'cpu'; default: a GPU if there is one")
    parser.add_argument('--port', type=int, default=7860, help='of the page (7860)')
    parser.add_argument('--trust-checkpoint', action='store_true', help='also read Python objects')
    args = parser.parse_args(argv)

    def run() -> None:
        find_gradio()
        cfg = load_config(args.config, args.cfg_options)
        predictor = load(cfg, args.checkpoint, args.device, args.trust_checkpoint)
        title = os.path.splitext(os.path.basename(args.config))[0]
        page = build_page(predictor, title, args.score_thr)
        print(f'http://{HERE}:{args.port} until Ctrl-C', flush=True)
        serve(page, args.port)

    run_tool(run)
    return 0
