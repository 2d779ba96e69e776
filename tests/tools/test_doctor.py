"""The doctor: what it finds wrong, the commands it gives, and that nothing makes it fail."""

import importlib.metadata
import os
import re
import subprocess
import sys

import pytest

from gcvit_mm import doctor
from support.running import ROOT

SCRIPT = ROOT / 'gcvit_mm/doctor.py'
REQUIRES = [
    'numpy',
    'torch>=2.0',
    'onedl-mmengine<0.11,>=0.10.12; extra == "onedl"',
    'onedl-mmcv<2.4,>=2.3.6; extra == "onedl"',
    'onedl-mmdetection<3.6,>=3.5.1; extra == "onedl"',
    'onedl-mmsegmentation<1.5,>=1.4.2; extra == "onedl"',
    'onedl-mmpretrain<1.4,>=1.3.6; extra == "onedl"',
    'mmengine<1.0,>=0.10.3; extra == "openmmlab"',
    'mmcv-lite<2.2.0,>=2.0.0; extra == "openmmlab"',
    'mmdet<4.0,>=3.3.0; extra == "openmmlab"',
    'mmsegmentation<2.0,>=1.2.2; extra == "openmmlab"',
    'mmpretrain<2.0,>=1.2.0; extra == "openmmlab"',
]
COMMON = {'numpy': '2.2.6', 'torch': '2.11.0+cpu', 'torchvision': '0.26.0', 'gcvit_mm': '0.1.0'}
ONEDL = {
    **COMMON,
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6',
    'onedl-mmdetection': '3.5.1',
    'onedl-mmsegmentation': '1.4.2',
    'onedl-mmpretrain': '1.3.6',
}
OPENMMLAB = {
    **COMMON,
    'mmengine': '0.10.7',
    'mmcv-lite': '2.1.0',
    'mmdet': '3.3.0',
    'mmsegmentation': '1.2.2',
    'mmpretrain': '1.2.0',
}
SYMBOL = '_ZNK3c105Error4whatEv'
UNDEFINED = f'ImportError: mmcv/_ext.so: undefined symbol: {SYMBOL}'


def missing(module):
    """How Python says that a module is not there."""
    return dict(error=f"ModuleNotFoundError: No module named '{module}'")


@pytest.fixture
def machine(monkeypatch):
    """A function that makes up a machine and returns the rows of the report that matter."""

    def examine(distributions, **probes):
        probes = {name.replace('__', '.'): value for name, value in probes.items()}

        def probe(names, timeout=0):
            found = {name: dict(version='1', cuda='not available', compiled=True) for name in names}
            found['torch'] = dict(version=distributions.get('torch', ''), cuda='', gpus=0)
            for name in ('numpy', 'torch', 'torchvision'):
                if name not in distributions:
                    found[name] = missing(name)
            for module, names in doctor.MODULES.items():
                if not {*names, *map(doctor.actual, names)} & set(distributions):
                    found[module] = missing(module)
            found.update(probes)
            return found

        def requires(name):
            return ['numpy', 'torch==2.11.0'] if name == 'torchvision' else REQUIRES

        monkeypatch.setattr(doctor, 'installed', distributions.get)
        monkeypatch.setattr(doctor, 'probe', probe)
        monkeypatch.setattr(importlib.metadata, 'requires', requires)
        return {row.name.split(' (')[0]: row for row in doctor.diagnose() if row.problem}

    return examine


def test_both_flavours_are_fine(machine):
    """Neither flavour alone is a problem."""
    assert machine(ONEDL) == {}
    assert machine(OPENMMLAB) == {}


def test_plug_in_without_toolboxes_is_fine(machine):
    """mmengine and mmcv alone do; a missing toolbox is a note."""
    few = {k: v for k, v in ONEDL.items() if k in (*COMMON, 'onedl-mmengine', 'onedl-mmcv')}
    assert machine(few, mmcv___ext=missing('mmcv._ext')) == {}
    few.pop('onedl-mmcv')
    rows = machine(few)
    assert rows['mmcv'].problem == 'not installed'
    assert rows['mmcv'].fix == "pip install 'onedl-mmcv<2.4,>=2.3.6'"


def test_both_flavours_at_once(machine):
    """Two distributions of one module: both go, one comes back."""
    rows = machine({**ONEDL, 'mmcv': '2.1.0'})
    assert set(rows) == {'mmcv'}
    assert 'onedl-mmcv and mmcv are both installed' in rows['mmcv'].problem
    assert rows['mmcv'].fix == (
        "pip uninstall -y onedl-mmcv mmcv && pip install 'onedl-mmcv<2.4,>=2.3.6'"
    )


def test_mixed_flavours(machine):
    """One module of the other flavour."""
    mixed = {**ONEDL, 'mmdet': '3.3.0'}
    mixed.pop('onedl-mmdetection')
    rows = machine(mixed)
    assert set(rows) == {'mmdet'}
    assert 'of another flavour than the rest (onedl)' in rows['mmdet'].problem
    assert rows['mmdet'].fix.startswith('pip uninstall -y mmdet && pip install ')


def test_mmcv_that_mmdet_refuses(machine):
    """mmcv 2.2 under open-mmlab's mmdet 3.3: the range of the extra, and what mmdet says."""
    refusal = 'AssertionError: MMCV==2.2.0 is used but incompatible. Please install mmcv<2.2.0'
    rows = machine({**OPENMMLAB, 'mmcv-lite': '2.2.0'}, mmdet=dict(error=refusal))
    assert rows['mmcv'].fix == "pip install 'mmcv-lite<2.2.0,>=2.0.0'"
    assert rows['mmdet'].problem == refusal and rows['mmdet'].fix == 'fix what stands above'
    rows = machine(with_mmcv('2.2.0'), mmdet=dict(error=refusal))
    assert rows['mmcv'].fix == ("pip uninstall -y mmcv && pip install 'mmcv-lite<2.2.0,>=2.0.0'")


def with_mmcv(version):
    """open-mmlab's packages with mmcv in the place of mmcv-lite."""
    return {**{k: v for k, v in OPENMMLAB.items() if k != 'mmcv-lite'}, 'mmcv': version}


def test_mmcv_and_mmcv_lite(machine):
    """Either is fine; both are the same module."""
    assert machine(with_mmcv('2.1.0')) == {}
    rows = machine({**OPENMMLAB, 'mmcv': '2.1.0'})
    assert set(rows) == {'mmcv'}
    assert rows['mmcv'].problem == 'mmcv and mmcv-lite are both installed, and both are mmcv'
    assert rows['mmcv'].fix == (
        "pip uninstall -y mmcv-lite mmcv && pip install 'mmcv-lite<2.2.0,>=2.0.0'"
    )


@pytest.mark.parametrize(
    'name, version',
    [('torch', '1.13.1'), ('onedl-mmengine', '0.10.7'), ('onedl-mmpretrain', '1.4.0')],
)
def test_ranges_are_those_of_the_package(machine, name, version):
    """What setup.py asks for is what the doctor asks for."""
    rows = machine({**ONEDL, name: version}, torchvision=dict(version='1'))
    wanted = next(r for r in REQUIRES if re.match(rf'{name}[<>=]', r)).split(';')[0]
    assert any(row.fix == f"pip install '{wanted}'" for row in rows.values())


def test_ops_of_another_torch(machine):
    """The symbol is named; the command puts mmcv without ops there, past pip's cache of wheels."""
    row = machine(ONEDL, mmcv___ext=dict(error=UNDEFINED))['ops of mmcv']
    assert row.problem == (
        f"built for another torch (undefined symbol {SYMBOL}); gcvit_mm's are used instead"
    )
    assert row.fix == ('pip install --no-cache-dir --force-reinstall --no-deps onedl-mmcv==2.3.6')
    row = machine(with_mmcv('2.1.0'), mmcv___ext=dict(error=UNDEFINED))['ops of mmcv']
    assert row.fix == 'pip uninstall -y mmcv && pip install mmcv-lite==2.1.0'


@pytest.mark.parametrize(
    'found, gpus, version, note',
    [
        (missing('mmcv._ext'), 0, 'none', 'python -m gcvit_mm ops install'),
        (dict(cuda='not available', compiled=False), 1, 'gcvit_mm', 'for every program'),
        (dict(cuda='not available', compiled=True), 0, 'CPU', ''),
        (dict(cuda='not available', compiled=True), 1, 'CPU', "on GPUs gcvit_mm's are used"),
        (dict(cuda='13.0', compiled=True), 1, 'CUDA 13.0', ''),
    ],
)
def test_ops_that_are_no_problem(machine, found, gpus, version, note):
    """None, those of 'ops install', and compiled ones for what there is or for the CPU alone."""
    torch = dict(version='2.11.0', cuda='13.0', gpus=gpus)
    assert machine(ONEDL, torch=torch, mmcv___ext=found) == {}
    (row,) = (row for row in doctor.diagnose() if row.name == 'ops of mmcv')
    assert row.version == version and row.note.endswith(note) and bool(row.note) == bool(note)


def test_opencv_without_libgl(machine):
    """The headless build of the same version, and what fails with it comes after."""
    error = dict(error='ImportError: libGL.so.1: cannot open shared object file')
    rows = machine({**ONEDL, 'opencv-python': '4.12.0.88'}, cv2=error, mmcv=error)
    assert rows['OpenCV'].fix == (
        'pip install --force-reinstall --no-deps opencv-python-headless==4.12.0.88'
    )
    assert rows['mmcv'].fix == 'fix what stands above'


def test_torchvision_of_another_torch(machine):
    """torchvision itself says which torch it was built for."""
    rows = machine({**ONEDL, 'torch': '2.10.0'})
    assert set(rows) == {'torchvision'}
    assert rows['torchvision'].problem == 'built for torch==2.11.0, not 2.10.0'
    assert rows['torchvision'].fix == "pip install 'torch==2.11.0'"


def test_broken_torch_comes_first(machine):
    """What fails because torch does has torch as its fix."""
    broken = dict(error='ImportError: libcudart.so.13: cannot open shared object file')
    rows = machine(ONEDL, torch=broken, torchvision=broken, mmcv___ext=broken, mmdet=broken)
    assert rows['torch'].fix == 'pip install --force-reinstall torch==2.11.0'
    assert rows['torchvision'].fix == rows['ops of mmcv'].fix == 'fix torch first, then look again'
    assert rows['mmdet'].fix == 'fix what stands above'
    rows = machine(ONEDL, torchvision=broken)
    assert rows['torchvision'].fix == (
        'pip install --force-reinstall --no-deps torchvision==0.26.0'
    )


def test_torch_without_torchvision(machine):
    """torchvision brings the operators, so it is missed."""
    new = {**ONEDL, 'torch': '2.14.1'}
    new.pop('torchvision')
    rows = machine(new)
    assert set(rows) == {'torchvision'}
    assert (rows['torchvision'].problem, rows['torchvision'].fix) == (
        'not installed',
        'pip install torchvision',
    )


def test_numpy_too_new_for_torch(machine):
    """torch before 2.3 was built for numpy 1."""
    versions = {'numpy': dict(version='2.2.6'), 'torchvision': dict(error='')}
    rows = machine({**OPENMMLAB, 'torch': '2.1.2'}, **versions)
    assert rows['numpy'].problem == 'torch 2.1 was built for numpy 1'
    assert rows['numpy'].fix == "pip install 'numpy<2'"
    versions['numpy'] = dict(version='1.24.4')
    assert 'numpy' not in machine({**OPENMMLAB, 'torch': '2.1.2'}, **versions)
    versions['numpy'] = dict(version='2.2.6')
    assert 'numpy' not in machine({**OPENMMLAB, 'torch': '2.3.0'}, **versions)


def test_nothing_is_installed(machine):
    """An empty environment: a problem and a command for all that is needed."""
    rows = machine({}, **{'mmcv___ext': missing('mmcv')})
    assert {'numpy', 'torch', 'torchvision', 'mmengine', 'mmcv'} <= set(rows)
    assert all(row.fix for row in rows.values())


def test_broken_imports_have_a_fix(machine):
    """A toolbox that is there but does not import: its error, and the command that renews it."""
    rows = machine(ONEDL, mmseg=dict(error="ModuleNotFoundError: No module named 'ftfy'"))
    assert rows['mmseg'].problem.endswith("'ftfy'")
    assert rows['mmseg'].fix == (
        'pip install --force-reinstall --no-deps onedl-mmsegmentation==1.4.2'
    )


def test_report(machine, capsys):
    """Status 1 and one 'error:' a problem; status 0 and none when all is well."""
    machine({**ONEDL, 'mmcv': '2.1.0'})
    assert doctor.main() == 1
    output = capsys.readouterr().out
    assert output.count('error: ') == 1 and output.count('  fix: ') == 1
    machine(ONEDL)
    assert doctor.main() == 0
    assert 'everything fits together' in capsys.readouterr().out


# ------------------------------------------------------------- processes
def test_probe_survives_what_it_imports(tmp_path, monkeypatch):
    """A module that kills Python, exits, or prints: the ones after it are still looked at."""
    (tmp_path / 'kills.py').write_text('import os, signal; os.kill(os.getpid(), signal.SIGSEGV)')
    (tmp_path / 'exits.py').write_text('raise SystemExit(3)')
    (tmp_path / 'talks.py').write_text('print("hello"); __version__ = "1.5"')
    (tmp_path / 'wrong.py').write_text('raise ValueError("two\\nlines")')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    found = doctor.probe(['kills', 'exits', 'talks', 'wrong', 'absent_module'])
    assert found['kills']['error'] == 'importing it ends Python (status -11)'
    assert found['exits']['error'] == 'SystemExit: 3'
    assert found['talks'] == dict(version='1.5')
    assert found['wrong']['error'] == 'ValueError: two lines'
    assert doctor.not_found(found['absent_module']['error'], 'absent_module')


def test_probe_does_not_wait_for_ever(tmp_path, monkeypatch):
    """A module that hangs is reported like one that ends Python."""
    (tmp_path / 'hangs.py').write_text('import time; time.sleep(600)')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    assert 'no answer within 1 s' in doctor.probe(['hangs'], timeout=1)['hangs']['error']


def test_runs_in_an_empty_environment():
    """A Python without any package (-S -I): every part is missing, and nothing fails."""
    env = {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}
    probe_alone = 'import sys; sys.argv = ["doctor"]; import runpy; '
    probe_alone += f'r = runpy.run_path({str(SCRIPT)!r}); '
    # the children of the doctor must be as bare as it is
    probe_alone += 'run = r["subprocess"].run; '
    probe_alone += 'r["subprocess"].run = lambda c, **k: run([c[0], "-I", "-S", *c[1:]], **k); '
    probe_alone += 'sys.exit(r["main"]())'
    done = subprocess.run(
        [sys.executable, '-I', '-S', '-c', probe_alone],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert 'Traceback' not in done.stdout, done.stdout
    assert done.returncode == 1
    assert 'error: torch: not installed' in done.stdout
    assert 'fix: pip install onedl-mmcv' in done.stdout
