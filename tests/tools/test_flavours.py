"""Both flavours of the OpenMMLab packages: pins that fit setup.py, and the second environment."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from support.running import ROOT

SCRIPT = 'tools/setup_openmmlab.sh'
# Per file of pins: the extras it serves, and the Pythons.
LOCKS = {
    'constraints.txt': (('', 'onedl', 'test', 'docs'), ('3.10', '3.11', '3.12')),
    'constraints-openmmlab.txt': (('', 'openmmlab'), ('3.8', '3.9', '3.10', '3.11')),
}
LOCK_OF_PYTHON = [(lock, python) for lock, (_, pythons) in LOCKS.items() for python in pythons]


def pins(lock, python):
    """Version of every package that a file of pins gives a Python."""
    found = {}
    for line in (ROOT / lock).read_text().splitlines():
        if line.startswith('#'):
            continue
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({'python_version': python}):
            continue
        name = canonicalize_name(requirement.name)
        (spec,) = requirement.specifier
        assert spec.operator == '==' and name not in found, line
        found[name] = spec.version
    return found


@pytest.fixture(scope='module')
def required(tmp_path_factory):
    """What setup.py asks for: by extra ('' for none) the requirements."""
    folder = tmp_path_factory.mktemp('egg')
    command = [sys.executable, 'setup.py', '-q', 'egg_info', '--egg-base', str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    metadata = importlib.metadata.PathDistribution(folder / 'gcvit_mm.egg-info')
    requirements = [Requirement(line) for line in metadata.requires or []]
    found = {'': [r for r in requirements if r.marker is None]}
    for extra in metadata.metadata.get_all('Provides-Extra'):
        found[extra] = [r for r in requirements if r.marker and r.marker.evaluate({'extra': extra})]
    return found


def test_every_extra_has_pins(required):
    """No extra is left out of the files of pins, and none is empty."""
    assert set(required) == {extra for extras, _ in LOCKS.values() for extra in extras}
    assert all(required.values())


@pytest.mark.parametrize('lock, python', LOCK_OF_PYTHON)
def test_pins_satisfy_setup(lock, python, required):
    """Every requirement has a pin within its range."""
    pinned = pins(lock, python)
    for extra in LOCKS[lock][0]:
        for requirement in required[extra]:
            version = pinned.get(canonicalize_name(requirement.name))
            assert version, f'{lock} does not pin {requirement.name}'
            assert requirement.specifier.contains(version), f'{requirement} is pinned to {version}'


@pytest.mark.parametrize('lock, script', [*zip(LOCKS, ('tools/setup_env.sh', SCRIPT))])
def test_what_the_scripts_install_is_pinned(lock, script):
    """Nothing that a set-up asks pip for is left to the newest release."""
    text = (ROOT / script).read_text().replace('\\\n', ' ')
    calls = re.findall(r'^ *(?:pip_)?install ([\w -]+)', text, re.M)
    names = {name for call in calls for name in call.split() if not name.startswith('-')}
    assert {'pip', 'torch', 'pytest', 'hypothesis'} <= names
    for python in LOCKS[lock][1]:
        assert {canonicalize_name(name) for name in names} <= set(pins(lock, python))


@pytest.mark.parametrize('python', LOCKS['constraints-openmmlab.txt'][1])
def test_old_torch_has_old_numpy(python):
    """torch before 2.3 works with numpy 1 only, and mmdet 3.3 with mmcv before 2.2 only."""
    pinned = pins('constraints-openmmlab.txt', python)
    assert Version(pinned['torch']) < Version('2.3') and Version(pinned['numpy']) < Version('2')
    assert Version(pinned['mmcv']) < Version('2.2') <= Version(pinned['mmdet'])


def test_core_of_the_second_flavour():
    """make test-openmmlab runs files that are there; training and evaluating are among them."""
    command = ['make', '-n', 'test-openmmlab']
    if shutil.which('make') is None:
        pytest.skip('needs make')
    shown = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    files = re.findall(r'tests/\w+/test_\w+\.py', shown)
    assert {'tests/backbones/test_backbones.py', 'tests/e2e/test_end_to_end.py'} <= set(files)
    assert not [name for name in files if not (ROOT / name).exists()]


# ---------------------------------------------------------------- the script, on stand-ins
# Stands for Python: writes every call of pip to 'calls'; 'unfit' and 'broken' make it misbehave.
FAKE_PYTHON = """#!/bin/bash
state={state}
case "$*" in
*ensurepip,*) [ ! -e $state/unfit ] ;;
*'-m venv '*) mkdir -p "${{!#}}/bin" && cp "$0" "${{!#}}/bin/python" ;;
*'--no-binary mmcv'*)
    echo "FORCE_CUDA=$FORCE_CUDA MMCV_WITH_OPS=$MMCV_WITH_OPS $*" >>$state/calls
    [ -e $state/broken ] || touch $state/ops ;;
*'-m pip '*) echo "$*" >>$state/calls ;;
*mmcv.ops*) [ -e $state/ops ] ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A function that runs a copy of the script on stand-ins; ``.state`` is theirs."""
    root, programs, state = (tmp_path / name for name in ('checkout', 'bin', 'state'))
    for folder in (root / 'tools', programs, state):
        folder.mkdir(parents=True)
    for name in (SCRIPT, 'constraints-openmmlab.txt'):
        shutil.copy(ROOT / name, root / name)
    for name in 'bash cat cksum cp dirname getconf mkdir rm tail touch'.split():
        (programs / name).symlink_to(shutil.which(name))
    for name, text in (('python3', FAKE_PYTHON.format(state=state)), ('c++', '#!/bin/bash\n')):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)

    def run(**variables):
        return subprocess.run(
            ['bash', SCRIPT],
            cwd=root,
            env={'PATH': str(programs), **variables},
            capture_output=True,
            text=True,
        )

    run.root, run.state = root, state
    return run


def calls(checkout):
    """The calls of pip."""
    return (checkout.state / 'calls').read_text().splitlines()


def test_set_up_once(checkout):
    """Everything under the pins, the operators compiled for the CPU; the next run does nothing."""
    done = checkout()
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith('.venv-openmmlab is ready\n')
    made = calls(checkout)
    assert all('--constraint constraints-openmmlab.txt' in call for call in made)
    (compiled,) = (call for call in made if '--no-binary mmcv' in call)
    assert compiled.startswith('FORCE_CUDA=0 MMCV_WITH_OPS=1 ') and '--no-cache-dir' in compiled
    again = checkout()
    assert (again.returncode, again.stdout, again.stderr) == (0, '', '')
    assert calls(checkout) == made

    with open(checkout.root / 'constraints-openmmlab.txt', 'a') as file:
        file.write('# changed\n')
    assert checkout().returncode == 0
    assert len(calls(checkout)) == 2 * len(made) - 1  # the operators work and stay


def test_set_up_without_a_fitting_python(checkout):
    """One line names the versions and how to give one."""
    (checkout.state / 'unfit').touch()
    done = checkout()
    assert done.returncode == 1 and done.stdout == ''
    assert done.stderr.count('\n') == 1 and done.stderr.startswith('setup: error: ')
    assert '3.8 to 3.11' in done.stderr and 'PYTHON=' in done.stderr
    assert not (checkout.root / '.venv-openmmlab').exists()


def test_set_up_whose_operators_do_not_work(checkout):
    """It is no success, and the next run tries again."""
    (checkout.state / 'broken').touch()
    done = checkout()
    assert done.returncode == 1 and 'operators of mmcv do not work' in done.stderr
    (checkout.state / 'broken').unlink()
    assert checkout().returncode == 0
    assert os.path.exists(checkout.root / '.venv-openmmlab/setup.stamp')
