"""The wheel, which carries configs, tools and metafiles for mim."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.running import ROOT

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')

import model_zoo

LEFT_OVER = 'configs/__pycache__/mask_gg_t_1x.cpython-311.pyc'
BY_NAME = """
import mmpretrain
import torch
from mmengine.hub import get_model
import gcvit_mm
from gcvit_mm.addresses import config_path

print(config_path('mask_gg_t_1x'), len(gcvit_mm.list_models('cls_gg*')))
print(len(mmpretrain.list_models('cls_gg')))  # which was imported first
with torch.device('meta'):
    print(type(get_model('gcvit_mm::mask_gg_t_1x.py')).__name__)
"""
FORWARD = """
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from pathlib import Path
from gcvit_mm import cli
import gcvit_mm

mim = Path(gcvit_mm.__file__).parent / '.mim'
cfg = cli.load_config(str(mim / 'configs' / 'upernet_gcvit_xxt_shapes.py'))
cfg.launcher = 'none'
cli.use_cpu(cfg)
init_default_scope(cfg.default_scope)
model = MODELS.build(cfg.model).eval()
with torch.no_grad():
    print(gcvit_mm.__file__, tuple(model(torch.rand(1, 3, 64, 96)).shape))
"""


def call(*command, **kwargs):
    """Run a program and return what it printed."""
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        **kwargs,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """Folder into which a wheel of a source distribution of this tree is installed."""
    base = tmp_path_factory.mktemp('wheel')
    names = '.git .venv .setup data work_dirs build dist .mim *.egg-info *_cache __pycache__'
    shutil.copytree(ROOT, base / 'tree', ignore=shutil.ignore_patterns(*names.split()))
    (base / 'tree' / LEFT_OVER).parent.mkdir()
    (base / 'tree' / LEFT_OVER).touch()
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '--no-input']
    sdist = f'from setuptools import build_meta; build_meta.build_sdist({str(base / "sdist")!r})'
    (base / 'sdist').mkdir()
    call(sys.executable, '-c', sdist, cwd=base / 'tree')
    (source,) = (base / 'sdist').iterdir()
    offline = ['--no-deps', '--no-index']
    call(*pip, 'wheel', source, *offline, '--no-build-isolation', '-w', base / 'wheel', cwd=base)
    (wheel,) = (base / 'wheel').iterdir()
    target = ['--no-compile', '--target', base / 'installed']
    call(*pip, 'install', wheel, *offline, *target, cwd=base)
    return base / 'installed'


def test_wheel_carries_what_mim_looks_for(installed):
    """Configs with their bases, tools and the model index; nothing that was left by running."""
    mim = installed / 'gcvit_mm' / '.mim'

    def listing(root):
        return {
            str(path.relative_to(root))
            for folder in ('configs', 'tools')
            for path in (root / folder).rglob('*')
            if path.is_file()
        }

    assert listing(mim) == listing(installed.parent / 'tree') - {LEFT_OVER}
    assert set(model_zoo.read_entries(mim / 'model-index.yml')) == set(model_zoo.read_entries())


def test_wheel_works_without_the_sources(installed, tmp_path):
    """A config of the wheel builds and runs, and so does a tool, with the installed package."""
    env = dict(os.environ, PYTHONPATH=str(installed), OMP_NUM_THREADS='1')
    printed = call(sys.executable, '-W', 'ignore', '-c', FORWARD, cwd=tmp_path, env=env)
    where, shape = printed.splitlines()[-1].split(' ', 1)
    assert installed in Path(where).parents and shape == '(1, 6, 16, 24)'
    tool = installed / 'gcvit_mm' / '.mim' / 'tools' / 'model_zoo.py'
    assert '47.86' in call(sys.executable, tool, 'mask_gg_t_1x', cwd=tmp_path, env=env)


def test_names_work_without_the_sources(installed, tmp_path):
    """Configs are found by their names in what was installed; mmpretrain knows the classifiers."""
    env = dict(os.environ, PYTHONPATH=str(installed), OMP_NUM_THREADS='1')
    printed = call(sys.executable, '-W', 'ignore', '-c', BY_NAME, cwd=tmp_path, env=env)
    path = installed / 'gcvit_mm/.mim/configs/mask_gg_t_1x.py'
    lines = printed.splitlines()
    assert f'{path} 4' in lines and '4' in lines and lines[-1] == 'MaskRCNN'
