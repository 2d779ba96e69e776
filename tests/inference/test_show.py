"""What stands behind ``python -m gcvit_mm show``; tests/e2e/test_show_in_browser.py opens it."""

import sys

import cv2
import numpy as np
import pytest

from gcvit_mm import UserError
from gcvit_mm.inference import Predictor
from gcvit_mm.inference.show import build_page, draw, find_layers, look, predict
from support.configs import read_config

mmdet = pytest.importorskip('mmdet')
BLOCK = 'stages.2.blocks.4'


@pytest.fixture(scope='module')
def predictor():
    """The detector of the demo, without weights."""
    from gcvit_mm import cli

    cfg = read_config('mask_gcvit_xxt_shapes')
    cfg.model.test_cfg.rcnn.score_thr = 0.0
    cfg.model.test_cfg.rcnn.max_per_img = 5
    return Predictor(cfg, cli.build_model(cfg), dict(classes=('a', 'b', 'c', 'd', 'e')))


@pytest.fixture
def image():
    """A disc."""
    return cv2.circle(np.full((90, 120, 3), 60, np.uint8), (80, 40), 20, (250, 30, 30), -1)


def test_prediction(predictor, image):
    """Drawn and said above the threshold; nothing where there is no image."""
    prediction = predict(predictor, image)
    drawn, words = draw(prediction, 0.0)
    assert drawn.ndim == 3 and words == prediction.summary() and words
    drawn, words = draw(prediction, 1.0)
    assert words == prediction.above(1.0).summary()
    assert draw(predict(predictor, None), 0.5) == (None, '')


def test_looking(predictor, image):
    """The sheet follows pixel and blocks; the last block of each kind is chosen."""
    names, chosen = find_layers(predictor)
    assert BLOCK in names and set(chosen) < set(names)
    sheets = [look(predictor, image, at, [BLOCK]) for at in ((80, 40), (10, 80))]
    assert sheets[0].shape == sheets[1].shape and (sheets[0] != sheets[1]).any()
    assert look(predictor, image, (80, 40), chosen).shape != sheets[0].shape
    with pytest.raises(UserError, match='at least one block'):
        look(predictor, image, (80, 40), [])


def test_another_backbone(image):
    """It predicts; where its pixels look is not known."""
    cfg = read_config('mask_gcvit_xxt_shapes')
    model = mmdet.registry.MODELS.build(dict(type='mmdet.ResNet', depth=18))
    other = Predictor(cfg, type('Model', (), dict(backbone=model, eval=lambda self: self))(), {})
    assert find_layers(other) == ([], [])


def test_gradio_is_missing(predictor, monkeypatch):
    """One line, with the command."""
    monkeypatch.setitem(sys.modules, 'gradio', None)
    with pytest.raises(UserError, match="pip install 'gradio>=6'"):
        build_page(predictor, 'a', 0.3)
