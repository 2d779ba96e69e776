"""tools/setup_env.sh, run on stand-ins for Python, pip and the compiler: no network, no build."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = (ROOT / 'tools/setup_env.sh').read_text()
# What the script installs from.
INPUT = ('constraints.txt', 'constraints-openmmlab.txt', 'setup.py', 'pyproject.toml')
# Programs that the script may use. A compiler and a Python are added test by test.
PROGRAMS = (
    'awk bash cat cksum cp date dirname flock getconf grep mkdir mktemp rm sed sleep tail touch'
).split()

# Stands for Python: answers the script's questions and writes every call of pip to 'calls'. In the
# state folder, the files 'fail', 'stale', 'broken', 'slow' and 'no_gl' make it misbehave; 'ops'
# holds what mmcv's operators are.
FAKE_PYTHON = """#!/bin/bash
state={state}
case "$*" in
*ensurepip,*) [[ " {versions} " = *" ${{!#}} "* ]] && echo {version} ;;
*'-m venv '*)
    mkdir -p "${{!#}}/bin" && cp "$0" "${{!#}}/bin/python"
    echo "VIRTUAL_ENV=\\"${{!#}}\\"" >"${{!#}}/bin/activate" ;;
*'-m pip --version') echo pip ;;
*'-m pip '*)
    call="$*" && echo "${{PYTHONPATH-}}: ${{call#*-m pip }}" >>$state/calls
    echo 'a line of the log'
    [ ! -e $state/slow ] || sleep 0.3
    [ ! -e $state/fail ] || {{ echo 'pip: no such package'; exit 1; }}
    case "$*" in
    *headless) rm -f $state/no_gl ;;
    *--no-build-isolation*--verbose*) [ -e $state/stale ] || echo compiled >$state/ops ;;
    *--no-build-isolation*) [ -e $state/broken ] || echo compiled >$state/ops ;;
    *--force-reinstall*onedl-mmcv) echo none >$state/ops ;;
    esac ;;
*'import cv2') [ ! -e $state/no_gl ] ;;
*_ext.*) [ ! -e $state/bad_ops ] && cat $state/ops ;;
*'import gcvit_mm'*) echo torch 1.2.3 ;;
esac
"""


class Checkout:
    """A copy of the script and its input in a folder of its own, with its own PATH."""

    def __init__(self, folder):
        self.root = folder / 'checkout'
        self.bin = folder / 'bin'
        self.state = folder / 'state'
        self.venv = self.root / '.venv'
        for path in (self.root / 'tools', self.bin, self.state):
            path.mkdir(parents=True)
        shutil.copy(ROOT / 'tools/setup_env.sh', self.root / 'tools')
        for name in INPUT:
            shutil.copy(ROOT / name, self.root)
        (self.state / 'ops').write_text('none\n')
        for name in PROGRAMS:
            program = shutil.which(name)
            if program:
                (self.bin / name).symlink_to(program)

    def add_program(self, name, text='#!/bin/bash\n'):
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def add_python(self, name='python3', version='3.11', versions='3.10 to 3.12 3.8 to 3.11'):
        text = FAKE_PYTHON.format(state=self.state, version=version, versions=versions)
        return self.add_program(name, text)

    def start(self, *kind, **variables):
        env = {'PATH': str(self.bin), 'HOME': str(self.state), **variables}
        return subprocess.Popen(
            ['bash', 'tools/setup_env.sh', *kind],
            cwd=self.root,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # a test run in the background ignores Ctrl-C, and would hand that on
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *kind, **variables):
        process = self.start(*kind, **variables)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def done(self, *kind, **variables):
        """Run it; it must succeed. Returns the calls of pip that it made, and what it printed."""
        before = len(self.calls())
        status, out, err = self.run(*kind, **variables)
        assert (status, err) == (0, '')
        return self.calls()[before:], out

    def calls(self):
        path = self.state / 'calls'
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def empty(tmp_path):
    """No Python."""
    return Checkout(tmp_path)


@pytest.fixture
def checkout(empty):
    empty.add_python()
    return empty


def assert_one_line_error(checkout, result, *words):
    status, out, err = result
    assert status == 1
    assert out == ''
    assert err.count('\n') == 1 and err.startswith('setup: error: ')
    for word in words:
        assert word in err
    assert checkout.calls() == []
    assert not checkout.venv.exists()


# ---------------------------------------------------------------- Python
@pytest.mark.parametrize('kind, versions', [('', '3.10 to 3.12'), ('openmmlab', '3.8 to 3.11')])
def test_no_python(empty, kind, versions):
    result = empty.run(*kind.split())
    assert_one_line_error(empty, result, versions, 'PYTHON=', 'apt install')
    assert f'make {"test-openmmlab" if kind else "setup"} ' in result[2]


def test_unfit_pythons(checkout):
    # As pyenv's shims do when the version is not chosen.
    checkout.add_program('python3', '#!/bin/bash\necho "command not found" >&2\nexit 127\n')
    assert_one_line_error(checkout, checkout.run(), 'PYTHON=')
    named = checkout.run(PYTHON='/nonexistent/python')
    assert_one_line_error(checkout, named, '/nonexistent/python')


@pytest.mark.parametrize(
    'version, fits',
    [((3, 9), '3.8 to 3.11'), ((3, 10), 'both'), ((3, 12), '3.10 to 3.12'), ((3, 13), '')],
)
def test_the_question_to_a_real_python(version, fits):
    """The version question is understood by Python itself; versions are numbers, not text."""
    question = SCRIPT.split("-I -c '\n")[1].split('\' "$versions" 2>')[0]
    assert 'ensurepip' in question
    pretend = f'import sys; sys.version_info = ({version[0]}, {version[1]}, 0)\n' + question
    for versions in ('3.10 to 3.12', '3.8 to 3.11'):
        done = subprocess.run(
            [sys.executable, '-I', '-c', pretend, versions], capture_output=True, text=True
        )
        good = fits in ('both', versions)
        assert done.stdout == ('{}.{}\n'.format(*version) if good else '')
        assert good or 'AssertionError' in done.stderr


def test_falls_back_to_the_next_python(checkout):
    checkout.add_program('python3', '#!/bin/bash\nexit 127\n')
    checkout.add_python('python3.12', '3.12')
    _, out = checkout.done()
    assert 'bin/python3.12 (3.12)' in out


def test_python_too_new_for_the_last_releases(checkout):
    """One that fits .venv alone is passed over."""
    checkout.add_python(version='3.12', versions='3.10 to 3.12')
    checkout.done()
    status, _, err = checkout.run('openmmlab')
    assert status == 1 and 'Needed is 3.8 to 3.11' in err
    checkout.add_python('python3.8', '3.8', '3.8 to 3.11')
    assert 'bin/python3.8 (3.8)' in checkout.done('openmmlab')[1]


def test_other_python_version_makes_venv_anew(checkout):
    checkout.done()
    (checkout.venv / 'old').touch()
    other = checkout.add_python('other', '3.12')
    _, out = checkout.done(PYTHON=str(other))
    assert 'replacing' in out and '(3.12)' in out
    assert not (checkout.venv / 'old').exists()
    assert checkout.done(PYTHON=str(other)) == ([], '')


def test_broken_venv_is_made_anew(checkout):
    checkout.done()
    (checkout.venv / 'bin/python').write_text('#!/bin/bash\nexit 1\n')
    assert 'replacing' in checkout.done()[1]


def test_moved_checkout_makes_venv_anew(checkout):
    """Its programs and the editable install name the old folder; a copy does not touch that."""
    checkout.done()
    old = checkout.root
    checkout.root, checkout.venv = old.parent / 'moved', old.parent / 'moved/.venv'
    shutil.copytree(old, checkout.root)
    calls, out = checkout.done()
    assert 'replacing' in out and calls
    assert checkout.done() == ([], '')
    checkout.root = old
    assert checkout.done() == ([], '')


def test_checkout_behind_a_link_is_the_same(checkout):
    checkout.done()
    link = checkout.root.parent / 'link'
    link.symlink_to(checkout.root)
    checkout.root = link
    assert checkout.done() == ([], '')


# ---------------------------------------------------------------- packages
def test_installs_once(checkout):
    """Without a compiler. Everything is pinned; mmcv is built without seeing torch or a cache."""
    calls, out = checkout.done(PYTHONPATH='/elsewhere')
    assert 'compil' not in out and out.endswith('.venv is ready (torch 1.2.3)\n')
    assert all(
        call.startswith(': install --no-compile --constraint constraints.txt ') for call in calls
    )
    mmcv, packages = calls[-2:]
    assert mmcv.endswith(' --no-cache-dir --no-deps onedl-mmcv')
    assert packages.endswith(' --editable .[onedl,test,docs]')
    assert not any('--no-build-isolation' in call for call in calls)

    start = time.monotonic()
    assert checkout.done() == ([], '')
    assert time.monotonic() - start < 5


def test_ready_needs_no_python(checkout):
    checkout.done()
    (checkout.bin / 'python3').unlink()
    assert checkout.done() == ([], '')


@pytest.mark.parametrize('name', ['constraints.txt', 'setup.py', 'tools/setup_env.sh'])
def test_changed_input_installs_again(checkout, name):
    first, _ = checkout.done()
    with open(checkout.root / name, 'a') as file:
        file.write('# changed\n')
    again, out = checkout.done()
    assert again == first and 'making .venv' not in out


def test_no_libgl(checkout):
    """Where OpenCV does not import, the headless build of it is put in its place."""
    (checkout.state / 'no_gl').touch()
    calls, _ = checkout.done()
    assert calls[-1].endswith(' --force-reinstall --no-deps opencv-python-headless')


def test_failure_shows_the_log_and_the_next_run_goes_on(checkout):
    (checkout.state / 'fail').touch()
    status, _, err = checkout.run()
    assert status == 1
    assert 'pip: no such package' in err
    assert err.splitlines()[-1].startswith('setup: error: ')
    assert str(checkout.venv / 'setup.log') in err.splitlines()[-1]
    assert len(checkout.calls()) == 1

    (checkout.venv / 'kept').touch()
    (checkout.state / 'fail').unlink()
    checkout.done()
    assert (checkout.venv / 'kept').exists()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGKILL])
def test_run_that_was_interrupted(checkout, number):
    (checkout.state / 'slow').touch()
    process = checkout.start()
    while not checkout.calls():
        time.sleep(0.02)
    os.killpg(process.pid, number)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert ('setup: interrupted' in out) == (number == signal.SIGINT)
    assert not (checkout.venv / 'setup.stamp').exists()

    # What pip leaves when it is killed while it unpacks or replaces a package, next to a whole one.
    packages = checkout.venv / 'lib/python3.11/site-packages'
    for name in ('half-1.0.dist-info', 'whole-1.0.dist-info', '~ld-1.0.dist-info', '~ld'):
        (packages / name).mkdir(parents=True)
    for name in ('whole-1.0.dist-info', '~ld-1.0.dist-info'):
        (packages / name / 'RECORD').touch()
    (packages / 'module.py').touch()
    (checkout.venv / 'kept').touch()
    checkout.done()
    assert {path.name for path in packages.iterdir()} == {'whole-1.0.dist-info', 'module.py'}
    assert (checkout.venv / 'kept').exists()


@pytest.mark.skipif(shutil.which('flock') is None, reason='needs flock')
def test_two_runs_at_once_install_once(checkout):
    (checkout.state / 'slow').touch()
    runs = [checkout.start() for _ in range(2)]
    outputs = [run.communicate(timeout=60)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert sum('waiting for another' in out for out in outputs) == 1
    assert sum('.venv is ready' in out for out in outputs) == 1
    assert len(checkout.calls()) == len(set(checkout.calls()))


# ---------------------------------------------------------------- other environments
def test_newest(checkout):
    """No pins, and looked for again on another day; .venv is left alone."""
    calls, out = checkout.done('newest')
    assert out.endswith('.venv-newest is ready (torch 1.2.3)\n') and not checkout.venv.exists()
    assert all(' --constraint /dev/null ' in call for call in calls)
    (packages,) = (call for call in calls if '--editable' in call)
    assert '--upgrade --upgrade-strategy eager' in packages
    assert calls[-1].endswith('--upgrade --no-deps numpy opencv-python-headless')
    assert checkout.done('newest') == ([], '')
    checkout.add_program('date', '#!/bin/bash\necho 2001-01-01\n')
    assert checkout.done('newest')[0] == calls


def test_last_open_mmlab_releases(checkout):
    """Pins of their own; mmcv of an older set-up goes, as mmcv-lite is the same module."""
    calls, out = checkout.done('openmmlab', MMCV_OPS='compiled')
    assert out.endswith('.venv-openmmlab is ready (torch 1.2.3)\n') and not checkout.venv.exists()
    assert calls.pop(1) == ': uninstall -y mmcv'
    assert all(' --constraint constraints-openmmlab.txt ' in call for call in calls)
    assert ' --editable .[openmmlab] ' in calls[-1]
    assert checkout.done('openmmlab') == ([], '')


def test_unknown_environment(checkout):
    status, _, err = checkout.run('latest')
    assert status == 2 and err == 'usage: setup_env.sh [newest | openmmlab]\n'


# ---------------------------------------------------------------- MMCV_OPS
COMPILE = ': install --no-compile --constraint constraints.txt --no-build-isolation '
COMPILE += '--force-reinstall --no-deps {} onedl-mmcv'
PURE = ': install --no-compile --constraint constraints.txt --no-cache-dir --no-deps '
PURE += '--force-reinstall onedl-mmcv'


def test_compiled_operators_stay_until_they_are_not_wanted(checkout):
    checkout.add_program('c++')
    checkout.done()
    calls, out = checkout.done(MMCV_OPS='compiled')
    assert calls[-1] == COMPILE.format('--verbose') and 'about 10 minutes' in out
    assert checkout.done(MMCV_OPS='compiled') == checkout.done() == ([], '')

    with open(checkout.root / 'constraints.txt', 'a') as file:
        file.write('# changed\n')
    calls, _ = checkout.done()
    assert not any('--force-reinstall' in call for call in calls)
    assert checkout.done(MMCV_OPS='compiled') == ([], '')
    assert checkout.done(MMCV_OPS='none')[0][-1] == PURE
    assert checkout.done(MMCV_OPS='none') == checkout.done() == ([], '')


def test_operators_of_another_torch(checkout):
    """They give way where nobody asked for compiled ones."""
    checkout.done()
    (checkout.venv / 'setup.stamp').unlink()
    (checkout.state / 'bad_ops').touch()
    text = (checkout.bin / 'python3').read_text()
    text = text.replace('echo none >', 'rm -f $state/bad_ops; echo none >')
    for python in (checkout.bin / 'python3', checkout.venv / 'bin/python'):
        python.write_text(text)
    assert checkout.done()[0][-1] == PURE


def test_cached_wheel_of_another_torch_is_compiled_afresh(checkout):
    checkout.add_program('c++')
    (checkout.state / 'stale').touch()
    calls, _ = checkout.done(MMCV_OPS='compiled')
    assert calls[-2:] == [COMPILE.format('--verbose'), COMPILE.format('--no-cache-dir')]


def test_operators_that_never_work(checkout):
    checkout.add_program('c++')
    for name in ('stale', 'broken'):
        (checkout.state / name).touch()
    status, _, err = checkout.run(MMCV_OPS='compiled')
    assert status == 1
    assert 'operators of onedl-mmcv do not work' in err
    assert not (checkout.venv / 'setup.stamp').exists()


@pytest.mark.parametrize('compiler', [None, '#!/bin/bash\nexit 1\n'])
def test_no_working_compiler(checkout, compiler):
    """It is asked for before anything is installed, and only where it is needed."""
    if compiler:
        checkout.add_program('c++', compiler)
    words = ('C++17', 'apt install g++', 'CXX')
    assert_one_line_error(checkout, checkout.run(MMCV_OPS='compiled'), *words)
    checkout.done(MMCV_OPS='none')


def test_unknown_choice(checkout):
    assert_one_line_error(checkout, checkout.run(MMCV_OPS='cuda'), 'MMCV_OPS', "'cuda'")


def test_the_question_about_operators(tmp_path):
    """A real Python says 'none' where there is no file, and fails where it does not import."""
    question = SCRIPT.split('"$py" -I -c \'\nimport importlib.util, pathlib')[1].split("' 2>")[0]
    package = tmp_path / 'mmcv'
    package.mkdir()
    (package / '__init__.py').touch()

    def ask():
        command = [sys.executable, '-c', 'import importlib.util, pathlib' + question]
        env = {**os.environ, 'PYTHONPATH': str(tmp_path)}
        return subprocess.run(command, env=env, capture_output=True, text=True)

    assert ask().stdout == 'none\n'
    (package / '_ext.cpython-311-x86_64-linux-gnu.so').touch()
    done = ask()
    assert done.returncode != 0 and done.stdout == ''


@pytest.mark.skipif(shutil.which('make') is None, reason='needs make')
def test_what_make_hands_on(tmp_path):
    """Python imports from .venv alone, and writes what it compiles: the set-up compiles nothing."""
    names = ('PYTHONPATH', 'PYTHONHOME', 'PYTHONDONTWRITEBYTECODE')
    python = tmp_path / 'python'
    python.write_text('#!/bin/sh\necho "$@"\nenv\n')
    python.chmod(0o755)
    command = ['make', '-s', '-C', ROOT, '-o', 'setup', 'test', f'PY={python}']
    env = dict(os.environ, **dict.fromkeys(names, '1'))
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    assert '-m pytest' in done.stdout
    assert not re.findall(rf'^({"|".join(names)})=', done.stdout, re.M)


# ---------------------------------------------------------------- pins
@pytest.mark.parametrize('python', ['3.10', '3.11', '3.12'])
def test_constraints_give_each_package_one_version(python):
    pins = {}
    for line in (ROOT / 'constraints.txt').read_text().splitlines():
        requirement = Requirement(line) if not line.startswith('#') else None
        environment = {'python_version': python}
        if requirement and (not requirement.marker or requirement.marker.evaluate(environment)):
            assert requirement.name not in pins
            pins[requirement.name] = str(requirement.specifier)
    assert all(pin.startswith('==') for pin in pins.values())
    assert pins['torch'] == '==2.11.0' and pins['onedl-mmcv'] == '==2.3.6'
    assert {'numpy', 'scipy', 'networkx', 'pytest', 'ruff'} <= set(pins)


def test_wheel_carries_configs_and_tools_for_mim(tmp_path):
    command = [sys.executable, 'setup.py', '-q', 'build_py', '--build-lib', str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    mim = tmp_path / 'gcvit_mm/.mim'
    for folder in ('configs', 'tools'):
        built = {path.relative_to(mim) for path in (mim / folder).rglob('*.py')}
        assert built == {path.relative_to(ROOT) for path in (ROOT / folder).rglob('*.py')}
    assert (tmp_path / 'gcvit_mm/version.py').exists()
