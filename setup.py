import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def read(name):
    path = ROOT / name
    return path.read_text(encoding='utf-8') if path.exists() else ''


class BuildWithMim(build_py):
    """Adds configs, tools and the model index to the wheel, where mim looks for them."""

    def run(self):
        super().run()
        if getattr(self, 'editable_mode', False):
            return
        target = Path(self.build_lib) / 'gcvit_mm' / '.mim'
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in ('configs', 'tools'):
            if (ROOT / name).is_dir():
                ignore = shutil.ignore_patterns('__pycache__', '*.pyc')
                shutil.copytree(ROOT / name, target / name, ignore=ignore)
        if (ROOT / 'model-index.yml').exists():
            shutil.copy(ROOT / 'model-index.yml', target)


setup(
    name='gcvit_mm',
    version=re.search(r"__version__ = '(.+)'", read('gcvit_mm/version.py')).group(1),
    description='Backbones for OpenMMLab: GC ViT, ScalableViT, GG-Transformer, GPViT',
    long_description=read('README.md'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['gcvit_mm', 'gcvit_mm.*']),
    python_requires='>=3.8',
    # Neither flavour of the OpenMMLab packages: both provide the same modules, so the choice is
    # the user's (see the extras). torchvision's operators stand in for those of mmcv.
    install_requires=['numpy', 'torch>=2.0'],
    extras_require={
        'onedl': [
            'onedl-mmengine>=0.10.12,<0.11',
            'onedl-mmcv>=2.3.6,<2.4',
            'onedl-mmdetection>=3.5.1,<3.6',
            'onedl-mmsegmentation>=1.4.2,<1.5',
            'onedl-mmpretrain>=1.3.6,<1.4',
            'torchvision',
        ],
        # mmdet 3.3 and mmseg 1.2 refuse mmcv 2.2. mmcv-lite is mmcv without operators, as a wheel.
        'openmmlab': [
            'mmengine>=0.10.3,<1.0',
            'mmcv-lite>=2.0.0,<2.2.0',
            'mmdet>=3.3.0,<4.0',
            'mmsegmentation>=1.2.2,<2.0',
            'mmpretrain>=1.2.0,<2.0',
            'ftfy',
            'regex',
            'torchvision',
        ],
        'test': [
            'hypothesis',
            'mypy',
            'onnx',
            'onnxruntime',
            'pytest',
            'pytest-xdist',
            'ruff',
            'tensorboard',
            'timm',
        ],
        'show': ['gradio>=6'],
        'openvino': ['openvino>=2026.4'],
        'docs': ['furo', 'myst-parser', 'sphinx', 'sphinx-copybutton'],
    },
    cmdclass={'build_py': BuildWithMim},
    zip_safe=False,
)
