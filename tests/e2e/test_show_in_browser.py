"""The page of ``python -m gcvit_mm show`` in a real browser."""

import shutil
import urllib.error
import urllib.request

import cv2
import numpy as np
import pytest

pytest.importorskip('mmdet')
pytest.importorskip('gradio', minversion='6', reason='needs gradio 6')
playwright = pytest.importorskip('playwright.sync_api', reason='needs playwright')
BROWSER = shutil.which('chromium') or shutil.which('google-chrome')

from gcvit_mm import cli
from gcvit_mm.inference import Predictor
from gcvit_mm.inference.show import build_page, serve
from support.configs import read_config

FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-sync']


@pytest.fixture
def address():
    """Address of a page with the detector of the demo, without weights."""
    cfg = read_config('mask_gcvit_xxt_shapes')
    cfg.model.test_cfg.rcnn.score_thr = 0.0
    cfg.model.test_cfg.rcnn.max_per_img = 5
    predictor = Predictor(cfg, cli.build_model(cfg), dict(classes=('a', 'b', 'c', 'd', 'e')))
    page = build_page(predictor, 'the demo', 0.0)
    _, address, _ = serve(page, None, prevent_thread_lock=True)
    yield address
    page.close()


@pytest.mark.skipif(not BROWSER, reason='needs Chromium')
def test_drop_and_click(address, tmp_path):
    """An image is dropped: boxes appear. A click, another: the sheet follows. All from here."""
    image = cv2.circle(np.full((90, 120, 3), 60, np.uint8), (80, 40), 20, (30, 30, 250), -1)
    cv2.imwrite(str(tmp_path / 'disc.png'), image)
    elsewhere = []
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=BROWSER, args=FLAGS)
        page = browser.new_page()
        page.on('request', lambda r: elsewhere.append(r.url) if r.url[:4] == 'http' else None)
        page.goto(address)
        page.locator('#image input[type=file]').first.set_input_files(tmp_path / 'disc.png')
        page.wait_for_selector('#drawn img')
        page.wait_for_function("document.querySelector('#found textarea').value != ''")
        box = page.locator('#image img').bounding_box()
        sheets = []
        for x, y in ((0.7, 0.4), (0.1, 0.9)):
            page.mouse.click(box['x'] + x * box['width'], box['y'] + y * box['height'])
            page.wait_for_function(
                '(old) => { const sheet = document.querySelector("#sheet img");'
                ' return sheet && !old.includes(sheet.src); }',
                arg=sheets,
            )
            sheets.append(page.locator('#sheet img').get_attribute('src'))
        browser.close()
    assert len(set(sheets)) == 2
    assert elsewhere and all(url.startswith(address) for url in elsewhere)


def test_nothing_from_elsewhere(address):
    """It listens to this machine alone, and gives no file that it has not made."""
    assert address.startswith('http://127.0.0.1:')
    for path in ('/etc/passwd', str(cli.__file__)):
        with pytest.raises(urllib.error.HTTPError, match='40[34]'):
            urllib.request.urlopen(f'{address}gradio_api/file={path}')
