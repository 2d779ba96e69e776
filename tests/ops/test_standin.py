"""How the stand-in comes into place, and the command 'ops'."""

from pathlib import Path

import pytest

from gcvit_mm import UserError
from gcvit_mm.ops import OPERATORS, Extension, installed, mode, report, standin
from support.own_process import last, python

ROOT = Path(__file__).parents[2]


def test_compiled_only(monkeypatch, tmp_path):
    """'compiled' leaves mmcv as it is where its module is not there, or does not import."""
    monkeypatch.setenv('GCVIT_MM_OPS', 'compiled')
    folders = [str(tmp_path)]
    assert standin.Finder().find_spec(standin.MODULE, folders) is None
    monkeypatch.setattr(standin.sys.modules['mmcv'], '__path__', folders)
    with pytest.raises(ModuleNotFoundError, match='GCVIT_MM_OPS=compiled, but mmcv is not'):
        standin.extension()
    (tmp_path / f'_ext{standin.importlib.machinery.EXTENSION_SUFFIXES[0]}').write_bytes(b'no')
    assert standin.Finder().find_spec(standin.MODULE, folders) is not None
    with pytest.raises(ImportError):
        standin.extension()
    monkeypatch.setenv('GCVIT_MM_OPS', 'torch')  # does not even look
    assert standin.extension()._compiled is None


def test_mmcv_was_imported_before(compiled):
    """Its modules call our operators then too, through functions that others hold already."""
    code = """
from mmcv.ops import roi_align, nms
import mmcv.ops, sys, gcvit_mm, torch
extension = sys.modules['mmcv._ext']
print(sys.modules['mmcv.ops.nms'].ext_module is extension is mmcv._ext, type(extension).__name__)
x = torch.randn(1, 4, 8, 8, dtype=torch.bfloat16)
print(roi_align(x, torch.tensor([[0, 1, 1, 5, 5.]]), 2).shape)
print(sys.modules['mmcv.ops.multi_scale_deform_attn'].multi_scale_deformable_attn_pytorch.__module__)
"""
    lines = python(code)[1].splitlines()[-3:]
    assert lines == ['True Extension', 'torch.Size([1, 4, 2, 2])', 'gcvit_mm.ops.deform_attn']


def test_every_name_is_there():
    """Those that mmcv.ops asks for, and those it may ask for; nobody's raise when called."""
    extension = Extension()
    assert all(callable(getattr(extension, name)) for name in OPERATORS)
    operator = extension.ball_query_forward
    with pytest.raises(UserError) as error:
        operator(1, 2, three=3)
    line = str(error.value)
    assert "'ball_query_forward'" in line and 'MMCV_WITH_OPS=1 pip install' in line
    assert '\n' not in line
    with pytest.raises(AttributeError):
        extension.__file__  # noqa: B018


@pytest.mark.parametrize('name', sorted(OPERATORS))
def test_arguments_are_mmcvs(compiled, name):
    """By name and in order: pybind writes them into the docstring of the compiled operator."""
    import inspect
    import re

    theirs = getattr(compiled, name).__doc__.splitlines()[0]
    names = re.findall(r'[(,]\s*(\w+): ', theirs)
    ours = list(inspect.signature(standin.own(name)).parameters)
    if name == 'line_nms_forward':  # declared without names
        assert len(names) == len(ours)
    else:
        assert ours == [n for n in names]


def test_offered_names_are_mmcvs(compiled):
    """No operator here is one that mmcv does not have."""
    assert [name for name in OPERATORS if not hasattr(compiled, name)] == []


def test_mode(monkeypatch):
    """The environment variable, and a wrong one."""
    monkeypatch.delenv('GCVIT_MM_OPS', raising=False)
    assert mode() == 'auto'
    for value in ('torch', 'compiled', ''):
        monkeypatch.setenv('GCVIT_MM_OPS', value)
        assert mode() == (value or 'auto')
    monkeypatch.setenv('GCVIT_MM_OPS', 'cuda')
    with pytest.raises(UserError, match="must be auto, compiled or torch, got 'cuda'"):
        mode()
    with pytest.raises(UserError):
        standin.stand_in()
    status, output = python(['-m', 'gcvit_mm', 'ops'], GCVIT_MM_OPS='cuda')
    assert (
        status == 2
        and last(output) == "error: GCVIT_MM_OPS must be auto, compiled or torch, got 'cuda'"
    )


def at(monkeypatch, folder):
    """Have the module look at another mmcv."""
    monkeypatch.setattr(installed, 'mmcv_folder', lambda: str(folder))


def test_ops_install_refuses(tmp_path, monkeypatch, capsys):
    """Compiled operators, another's file, a folder of somebody else, no mmcv: a line each."""
    at(monkeypatch, tmp_path)
    foreign = tmp_path / '_ext.py'
    foreign.write_text('nms = None\n')
    for command in ('install', 'remove'):
        assert report.main([command]) == 2
        error = capsys.readouterr().err
        assert error == f'error: {foreign} is not a file of gcvit_mm: it is left alone\n'
    assert foreign.read_text() == 'nms = None\n'
    foreign.unlink()

    library = tmp_path / f'_ext{standin.importlib.machinery.EXTENSION_SUFFIXES[0]}'
    library.write_bytes(b'')
    assert report.main(['install']) == 2
    assert 'has compiled operators, nothing is installed' in capsys.readouterr().err
    assert report.main(['remove']) == 0 and library.exists()
    library.unlink()

    monkeypatch.setattr(installed.os, 'access', lambda path, how: False)
    assert report.main(['install']) == 2
    assert 'is not writable' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

    monkeypatch.setattr(installed, 'mmcv_folder', lambda: None)
    assert report.main(['install']) == 2
    assert capsys.readouterr().err == 'error: mmcv is not installed: pip install onedl-mmcv\n'


def test_ops_usage(capsys):
    """Another word."""
    assert report.main(['uninstall']) == 2
    assert 'usage: python -m gcvit_mm ops' in capsys.readouterr().err
    assert report.main(['--help']) == 0


def test_whether_it_is_installed(tmp_path, monkeypatch):
    """What doctor asks, by the file's first line."""
    at(monkeypatch, tmp_path)
    assert not installed.installed()
    (tmp_path / '_ext.py').write_text(installed.TEXT)
    assert installed.installed()
    (tmp_path / '_ext.py').write_text('')
    assert not installed.installed()


def test_gpu_types_go_to_compiled_ones(compiled, monkeypatch):
    """Where a compiled module has GPU kernels they are used there; what it lacks is ours."""
    from types import ModuleType, SimpleNamespace

    import torch

    fake = ModuleType('fake')
    fake.roi_pool_forward = lambda tensor: 'theirs'
    fake.softnms = lambda tensor: 'theirs'
    monkeypatch.setattr(standin, 'own', lambda name: lambda tensor: 'ours')

    def answers(name, cuda):
        fake.get_compiling_cuda_version = lambda: cuda
        operator = getattr(Extension(fake), name)
        return [
            operator(SimpleNamespace(dtype=dtype, device=SimpleNamespace(type=device)))
            for device in ('cpu', 'cuda')
            for dtype in (torch.float32, torch.bfloat16)
        ]

    assert answers('roi_pool_forward', '12.8') == ['ours', 'ours', 'theirs', 'ours']
    assert answers('roi_pool_forward', 'not available') == ['ours'] * 4
    assert answers('softnms', 'not available') == ['theirs', 'ours', 'ours', 'ours']
    assert Extension(fake, 'compiled').roi_pool_forward(None) == 'theirs'


@pytest.mark.parametrize('kind', ['BFloat16', 'Long'])
def test_compiled_ones_that_lack_a_type(kind):
    """bfloat16: one line that says what to do. Other errors stay what they are."""
    from types import ModuleType

    def lacks(tensor):
        raise RuntimeError(f""""roi_pool" not implemented for '{kind}'""")

    fake = ModuleType('fake')
    fake.roi_pool_forward = lacks
    wanted = UserError if kind == 'BFloat16' else RuntimeError
    with pytest.raises(wanted, match='leave out --amp' if wanted is UserError else 'Long') as found:
        Extension(fake, 'compiled').roi_pool_forward(None)
    assert found.type is wanted
