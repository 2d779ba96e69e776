"""The stand-in in programs of their own, beside an mmcv that is not compiled."""

import shutil
from pathlib import Path

import pytest

from gcvit_mm.ops import installed, standin
from support.own_process import last, python


@pytest.fixture(scope='module')
def bare(tmp_path_factory):
    """A folder with mmcv without its compiled module."""
    mmcv = pytest.importorskip('mmcv')
    folder = tmp_path_factory.mktemp('site')
    ignore = shutil.ignore_patterns('_ext*', '__pycache__', 'csrc')
    shutil.copytree(Path(mmcv.__file__).parent, folder / 'mmcv', ignore=ignore)
    return folder


@pytest.fixture
def site(bare):
    """The same, with nothing in place of that module."""
    yield bare
    for path in (bare / 'mmcv').glob('_ext*'):
        path.unlink()


NMS = """
import torch
from mmcv.ops import nms
boxes = torch.tensor([[0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30.0]])
print(nms(boxes, torch.tensor([.5, .9, .7]), .5)[1].tolist())
"""


def test_stands_in(site):
    """Where mmcv is not compiled, also after an import has failed for that."""
    code = f"""
try:
    import mmcv.ops
except ImportError as error:
    print(error)
import gcvit_mm, importlib.util
{NMS}
import mmcv.ops
print(importlib.util.find_spec('mmcv._ext').name)  # mmengine's report asks
print(mmcv.ops.get_compiler_version(), '/', mmcv.ops.get_compiling_cuda_version())
print(mmcv.ops.multi_scale_deform_attn.multi_scale_deformable_attn_pytorch.__module__)
"""
    error, kept, name, versions, attention = python(code, paths=[str(site)])[1].splitlines()[-5:]
    assert error == "No module named 'mmcv._ext'"
    assert kept == '[1, 2]' and name == 'mmcv._ext' and attention == 'gcvit_mm.ops.deform_attn'
    assert versions.startswith('none (gcvit_mm ') and versions.endswith(') / not available')


def test_compiled_ones_that_do_not_import(site):
    """A module that is built for another torch: said in a line, and stood in for.

    Importing the package alone looks at none of it, and imports nothing that has operators.
    """
    suffix = standin.importlib.machinery.EXTENSION_SUFFIXES[0]
    path = site / 'mmcv' / f'_ext{suffix}'
    path.write_bytes(b'no library')
    code = f"""
import sys, gcvit_mm
names = ('mmcv.ops', 'mmcv._ext', 'torchvision', 'mmdet', 'mmseg', 'mmpretrain')
print([name for name in names if name in sys.modules])
{NMS}"""
    status, output = python(code, paths=[str(site)])
    assert status == 0 and last(output) == '[1, 2]', output
    assert '[]' in output.split('gcvit_mm stands in')[0].splitlines()
    assert f'gcvit_mm stands in for {path}' in output


def test_ops_install_and_remove(site):
    """The file, programs that never import gcvit_mm, and the file's end."""
    file = site / 'mmcv' / '_ext.py'
    where = dict(paths=[str(site)])
    status, output = python(['-m', 'gcvit_mm', 'ops', 'install'], **where)
    assert status == 0 and last(output).startswith(f'wrote {file}')
    assert file.read_text() == installed.TEXT and len(installed.TEXT.splitlines()) == 2
    assert python(['-m', 'gcvit_mm', 'ops', 'install'], **where)[0] == 0
    improved = 'import mmcv.ops.multi_scale_deform_attn as m\n'
    improved += 'print(m.multi_scale_deformable_attn_pytorch.__module__)'
    lines = python(NMS + improved, **where)[1].splitlines()[-2:]
    assert lines == ['[1, 2]', 'gcvit_mm.ops.deform_attn']
    status, output = python(['-m', 'gcvit_mm', 'ops'], **where)
    assert status == 0 and '_ext.py in mmcv     installed' in output
    status, output = python(['-m', 'gcvit_mm', 'ops', 'remove'], **where)
    assert status == 0 and last(output) == f'removed {file}' and not file.exists()
    status, output = python(['-m', 'gcvit_mm', 'ops', 'remove'], **where)
    assert status == 0 and last(output).startswith('nothing to remove')
