"""An empty environment, pip install '.[onedl]' and nothing else: Mask R-CNN trains and evaluates.

Needs an index of packages, some GB and minutes: GCVIT_MM_EMPTY_ENV=1 asks for it.
"""

import os
import re
import shutil
import subprocess
import sys

import pytest

from support.running import DET, ENV, ROOT, SMALL_RCNN, iterations

pytestmark = pytest.mark.skipif(
    os.environ.get('GCVIT_MM_EMPTY_ENV') != '1', reason='asked for by GCVIT_MM_EMPTY_ENV=1'
)


def test_mask_rcnn_in_an_empty_environment(tmp_path):
    """The installed package is used, not the checkout, and no operator is compiled."""
    # a copy without what is built here, which pip leaves as it is
    source = tmp_path / 'source'
    files = subprocess.run(
        ['git', 'ls-files', '-z'], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    for name in filter(None, files.split('\0')):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    subprocess.run([sys.executable, '-m', 'venv', tmp_path / 'venv'], check=True)
    python = tmp_path / 'venv/bin/python'
    env = {k: v for k, v in ENV.items() if not k.startswith('PYTHON')}

    def run(*command):
        words = [str(word) for word in (python, *command)]
        done = subprocess.run(words, cwd=source, env=env, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return done.stdout + done.stderr

    # a compiled mmcv may be in pip's cache; here there must be none
    run('-m', 'pip', 'install', '--no-cache-dir', '.[onedl]')
    assert 'everything fits together' in run('-m', 'gcvit_mm', 'doctor')
    where = run('-c', 'import gcvit_mm, importlib.util; print(gcvit_mm.__file__)')
    assert str(tmp_path / 'venv') in where or str(source) in where
    assert not list((tmp_path / 'venv').glob('lib/python3*/site-packages/mmcv/_ext*'))

    (source / 'gcvit_mm').rename(source / 'not_here')
    small = dict(train=8, val=4, size=96, cls_train=5, cls_val=5)
    options = [word for k, v in small.items() for word in (f'--{k.replace("_", "-")}', v)]
    run('tools/make_shapes.py', tmp_path / 'shapes', *options)
    output = run(
        'tools/train.py',
        DET,
        '--work-dir',
        tmp_path / 'run',
        '--data-root',
        tmp_path / 'shapes/coco',
        '--cfg-options',
        *iterations(2),
        *SMALL_RCNN,
        'model.test_cfg.rcnn.score_thr=0.0',
    )
    assert re.search(r'Iter\(train\) \[2/2\].* loss_mask: [\d.]+', output)
    assert re.search(r'coco/segm_mAP: -?[\d.]+', output)
