"""Both flavours of the OpenMMLab packages: pins that fit setup.py, and the other environments."""

import importlib.metadata
import re
import shutil
import subprocess
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from support.running import ROOT

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


UNPINNED = {'openvino', 'show'}  # left to who wants them


def test_every_extra_has_pins(required):
    """No extra that the set-up installs is left out of the files of pins, and none is empty."""
    assert set(required) - UNPINNED == {extra for extras, _ in LOCKS.values() for extra in extras}
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


def test_what_the_script_installs_is_pinned():
    """Nothing that a set-up under pins asks pip for is left to the newest release."""
    text = (ROOT / 'tools/setup_env.sh').read_text().replace('\\\n', ' ')
    lists = re.findall(r"packages='(.*)'", text) + re.findall(
        r'\bpip_install (.*?)(?: \|\||$)', text, re.M
    )
    words = {word for line in lists for word in line.split()}
    names = {word for word in words if re.fullmatch(r'[a-z][\w-]*', word)}
    assert {'pip', 'onedl-mmcv', 'pytest', 'hypothesis', 'opencv-python-headless'} <= names
    everywhere = {canonicalize_name(name) for name in names - {'onedl-mmcv', 'ninja', 'eager'}}
    for lock, python in LOCK_OF_PYTHON:
        assert everywhere <= set(pins(lock, python))
    assert {'onedl-mmcv', 'ninja'} <= set(pins('constraints.txt', '3.11'))


@pytest.mark.parametrize('python', LOCKS['constraints-openmmlab.txt'][1])
def test_old_torch_has_old_numpy(python):
    """torch before 2.3 works with numpy 1 only, and mmdet 3.3 with mmcv before 2.2 only."""
    pinned = pins('constraints-openmmlab.txt', python)
    assert Version(pinned['torch']) < Version('2.3') and Version(pinned['numpy']) < Version('2')
    assert Version(pinned['mmcv-lite']) < Version('2.2') <= Version(pinned['mmdet'])


@pytest.mark.skipif(shutil.which('make') is None, reason='needs make')
@pytest.mark.parametrize('kind', ['newest', 'openmmlab'])
def test_core_of_other_environments(kind):
    """make test-newest runs files that are there; training and evaluating are among them."""
    command = ['make', '-n', f'test-{kind}']
    shown = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert f'setup_env.sh {kind}\n' in shown and f'/.venv-{kind}/bin:' in shown
    files = re.findall(r'tests/\w+/test_\w+\.py', shown)
    assert {'tests/backbones/test_backbones.py', 'tests/e2e/test_end_to_end.py'} <= set(files)
    assert not [name for name in files if not (ROOT / name).exists()]
