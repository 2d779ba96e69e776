"""tools/setup_env.sh, run on stand-ins for Python, pip and the compiler: no network, no build."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]

# Programs that the script may use. A compiler and a Python are added test by test.
PROGRAMS = (
    'awk bash cat cksum cp dirname flock getconf mkdir mktemp nproc rm sed sleep tail touch'
).split()

# Stands for Python: answers the script's questions and writes every call of pip to 'calls'.
# The files 'fail', 'stale', 'broken' and 'slow' in the state folder make it misbehave; 'gpu' holds
# what torch says of its CUDA, 'kind' what mmcv's operators are compiled for.
FAKE_PYTHON = """#!/bin/bash
state={state}
case "$*" in
*ensurepip,*) echo {version} ;;
*'-m venv '*) mkdir -p "${{!#}}/bin" && cp "$0" "${{!#}}/bin/python" ;;
*'-m pip --version') echo pip ;;
*'-m pip '*)
    echo "PYTHONPATH=${{PYTHONPATH-}} FORCE_CUDA=${{FORCE_CUDA-}} $*" >>$state/calls
    echo 'a line of the log'
    [ ! -e $state/slow ] || sleep 0.3
    [ ! -e $state/fail ] || {{ echo 'pip: no such package'; exit 1; }}
    case "$FORCE_CUDA $*" in
    1*) [ ! -e $state/no_cuda_build ] || exit 1; echo cuda >$state/kind ;;
    *--no-cache-dir*) rm -f $state/stale ;;
    esac ;;
*cpp_extension*) cat $state/gpu ;;
*mmcv._ext*) [ ! -e $state/stale ] && [ ! -e $state/broken ] && cat $state/kind ;;
*) ;;
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
        shutil.copy(ROOT / 'constraints.txt', self.root)
        (self.state / 'kind').write_text('cpu\n')
        (self.state / 'gpu').write_text('')
        for name in PROGRAMS:
            program = shutil.which(name)
            if program:
                (self.bin / name).symlink_to(program)

    def add_program(self, name, text='#!/bin/bash\n'):
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def add_python(self, name='python3', version='3.11'):
        text = FAKE_PYTHON.format(state=self.state, version=version)
        return self.add_program(name, text)

    def start(self, **variables):
        env = {'PATH': str(self.bin), 'HOME': str(self.state), **variables}
        return subprocess.Popen(
            ['bash', 'tools/setup_env.sh'],
            cwd=self.root,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # a test run in the background ignores Ctrl-C, and would hand that on
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, **variables):
        process = self.start(**variables)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def calls(self):
        path = self.state / 'calls'
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def empty(tmp_path):
    """Neither Python nor compiler."""
    return Checkout(tmp_path)


@pytest.fixture
def checkout(empty):
    empty.add_python()
    empty.add_program('c++')
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


def test_no_python(empty):
    empty.add_program('c++')
    assert_one_line_error(empty, empty.run(), '3.10, 3.11 or 3.12', 'PYTHON=', 'apt install')


def test_unfit_pythons(checkout):
    # As pyenv's shims do when the version is not chosen.
    checkout.add_program('python3', '#!/bin/bash\necho "command not found" >&2\nexit 127\n')
    assert_one_line_error(checkout, checkout.run(), 'PYTHON=')
    named = checkout.run(PYTHON='/nonexistent/python')
    assert_one_line_error(checkout, named, '/nonexistent/python')


@pytest.mark.skipif(sys.version_info >= (3, 13), reason='needs a Python that is fit')
def test_the_question_to_a_real_python(checkout):
    """The version question is understood by Python itself, and a too new version is refused."""
    script = (ROOT / 'tools/setup_env.sh').read_text()
    question = script.split("-I -c '\n")[1].split("' 2>")[0]
    assert 'ensurepip' in question
    command = [sys.executable, '-I', '-c', question]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert answer == '{}.{}\n'.format(*sys.version_info[:2])
    newer = 'import sys; sys.version_info = (3, 13, 0)\n' + question
    result = subprocess.run([sys.executable, '-I', '-c', newer], stderr=subprocess.PIPE)
    assert result.returncode != 0 and b'AssertionError' in result.stderr


def test_falls_back_to_the_next_python(checkout):
    checkout.add_program('python3', '#!/bin/bash\nexit 127\n')
    checkout.add_python('python3.12', '3.12')
    status, out, err = checkout.run()
    assert status == 0, err
    assert 'bin/python3.12 (3.12)' in out


def test_no_compiler(empty):
    empty.add_python()
    assert_one_line_error(empty, empty.run(), 'C++17', 'apt install g++', 'CXX')


def test_compiler_that_does_not_work(checkout):
    checkout.add_program('c++', '#!/bin/bash\nexit 1\n')
    assert_one_line_error(checkout, checkout.run(), 'no working C++17 compiler')


def test_installs_once(checkout):
    status, out, err = checkout.run(PYTHONPATH='/elsewhere')
    assert (status, err) == (0, '')
    assert 'about 10 minutes' in out and out.endswith('.venv is ready\n')
    assert (checkout.venv / 'cpu_ops').exists()
    calls = checkout.calls()
    assert all(
        call.split(' ', 2)[2].startswith('-m pip install --constraint constraints.txt ')
        for call in calls
    )
    assert all(call.startswith('PYTHONPATH= ') for call in calls)
    for package in ('torch', 'onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', '--editable'):
        assert any(package in call.split() for call in calls)
    assert not any('--no-cache-dir' in call for call in calls)

    assert checkout.run() == (0, '', '')
    assert checkout.calls() == calls


def test_ready_needs_neither_compiler_nor_python(checkout):
    assert checkout.run()[0] == 0
    (checkout.bin / 'c++').unlink()
    (checkout.bin / 'python3').unlink()
    assert checkout.run() == (0, '', '')


@pytest.mark.parametrize('name', ['constraints.txt', 'tools/setup_env.sh'])
def test_changed_input_installs_again(checkout, name):
    assert checkout.run()[0] == 0
    count = len(checkout.calls())
    with open(checkout.root / name, 'a') as file:
        file.write('# changed\n')
    assert checkout.run()[0] == 0
    assert len(checkout.calls()) == 2 * count


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
    assert checkout.run()[0] == 0
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

    # What pip leaves when it is killed while it unpacks a package, next to a complete one.
    packages = checkout.venv / 'lib/python3.11/site-packages'
    (packages / 'half-1.0.dist-info').mkdir(parents=True)
    (packages / 'whole-1.0.dist-info').mkdir()
    (packages / 'whole-1.0.dist-info/RECORD').touch()
    (checkout.venv / 'kept').touch()
    status, out, err = checkout.run()
    assert status == 0 and out.endswith('.venv is ready\n')
    assert [path.name for path in packages.iterdir()] == ['whole-1.0.dist-info']
    assert (checkout.venv / 'kept').exists()


def test_operators_of_another_torch_are_compiled_afresh(checkout):
    (checkout.state / 'stale').touch()
    status, out, err = checkout.run()
    assert status == 0, err
    assert 'compiling it afresh' in out
    builds = [call.split()[7:] for call in checkout.calls() if call.endswith(' onedl-mmcv')]
    first = ['--verbose', '--no-build-isolation', 'onedl-mmcv']
    again = first[:-1] + ['--no-cache-dir', '--force-reinstall', '--no-deps', 'onedl-mmcv']
    assert builds == [first, again]


def test_operators_that_never_work(checkout):
    (checkout.state / 'broken').touch()
    status, _, err = checkout.run()
    assert status == 1
    assert 'operators of onedl-mmcv do not work' in err
    assert not (checkout.venv / 'setup.stamp').exists()


def test_other_python_version_makes_venv_anew(checkout):
    assert checkout.run()[0] == 0
    (checkout.venv / 'old').touch()
    other = checkout.add_python('other', '3.12')
    status, out, err = checkout.run(PYTHON=str(other))
    assert status == 0, err
    assert 'replacing' in out and '(3.12)' in out
    assert not (checkout.venv / 'old').exists()
    assert checkout.run(PYTHON=str(other)) == (0, '', '')


def test_broken_venv_is_made_anew(checkout):
    assert checkout.run()[0] == 0
    (checkout.venv / 'bin/python').write_text('#!/bin/bash\nexit 1\n')
    status, out, err = checkout.run()
    assert status == 0, err
    assert 'replacing' in out


def add_gpu(checkout, nvcc):
    """A GPU, a torch for CUDA 13.0, and an nvcc of the given release (None: no nvcc)."""
    checkout.add_program('nvidia-smi')
    toolkit = checkout.root.parent / 'cuda'
    (checkout.state / 'gpu').write_text(f'13.0 {toolkit if nvcc else None}\n')
    if nvcc:
        (toolkit / 'bin').mkdir(parents=True)
        text = f'#!/bin/bash\necho "Cuda compilation tools, release {nvcc}, V1"\n'
        checkout.add_program(toolkit / 'bin/nvcc', text)


def mmcv_builds(checkout):
    return [call.split()[1] for call in checkout.calls() if call.endswith(' onedl-mmcv')]


def test_gpu_with_matching_nvcc(checkout):
    add_gpu(checkout, nvcc='13.1')
    status, out, err = checkout.run()
    assert status == 0, err
    assert 'its cuda operators' in out
    assert mmcv_builds(checkout) == ['FORCE_CUDA=1']
    assert not (checkout.venv / 'cpu_ops').exists()


@pytest.mark.parametrize('nvcc', [None, '12.8'])
def test_gpu_without_matching_nvcc(checkout, nvcc):
    add_gpu(checkout, nvcc)
    status, out, err = checkout.run()
    assert status == 0, err
    assert 'no nvcc of CUDA 13' in out and 'toolkit 13.x' in out and 'onedl-mim' in out
    assert mmcv_builds(checkout) == ['FORCE_CUDA=0']
    assert (checkout.venv / 'cpu_ops').exists()


def test_gpu_build_that_fails_leaves_cpu_operators(checkout):
    add_gpu(checkout, nvcc='13.0')
    (checkout.state / 'no_cuda_build').touch()
    status, out, err = checkout.run()
    assert status == 0, err
    assert 'could not be compiled for the GPU' in out
    assert mmcv_builds(checkout) == ['FORCE_CUDA=1', 'FORCE_CUDA=0']
    assert (checkout.venv / 'cpu_ops').exists()


def test_cached_cpu_operators_on_a_gpu_are_compiled_afresh(checkout):
    add_gpu(checkout, nvcc='13.0')
    # The first build "installs" a cached wheel: it leaves the operators as they are.
    text = (checkout.bin / 'python3').read_text().replace('1*)', '1*--no-cache-dir*)')
    checkout.add_program('python3', text)
    status, out, err = checkout.run()
    assert status == 0, err
    assert 'compiling it afresh' in out
    assert mmcv_builds(checkout) == ['FORCE_CUDA=1', 'FORCE_CUDA=1']
    assert not (checkout.venv / 'cpu_ops').exists()


@pytest.mark.skipif(shutil.which('flock') is None, reason='needs flock')
def test_two_runs_at_once_install_once(checkout):
    (checkout.state / 'slow').touch()
    runs = [checkout.start() for _ in range(2)]
    outputs = [run.communicate(timeout=60)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert sum('waiting for another' in out for out in outputs) == 1
    assert sum('.venv is ready' in out for out in outputs) == 1
    assert len(checkout.calls()) == len(set(checkout.calls()))


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
