"""Programs of their own: what they print, and their status."""

import importlib.metadata
import subprocess
import sys

import pytest
import torch

from campaign import Code
from support.faulty_run import write_config
from support.running import CLS, DET, ENV, ROOT, TESTS, one_line_error, run

DOCTOR = ROOT / 'gcvit_mm/doctor.py'


def test_check_data(shapes, tmp_path):
    """Status 0 and 2, one line a finding, nothing drawn where there are errors."""
    command = ['check-data', DET, '--data-root', shapes / 'coco', '--out-dir', tmp_path / 'out']
    command += ['--samples', '4', '--cfg-options']
    printed = run(*command, 'model.roi_head.bbox_head.num_classes=6', status=2)
    assert 'Traceback' not in printed, printed
    lines = [line for line in printed.splitlines() if line.startswith('error: ')]
    assert 'bbox_head.num_classes=6' in lines[0] and not (tmp_path / 'out').exists()
    done = subprocess.run(
        [sys.executable, '-m', 'gcvit_mm', *map(str, command), 'train_dataloader.batch_size=8'],
        cwd=ROOT,
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert 'warning: 8 images a step' in done.stdout and '0 errors, 1 warnings' in done.stdout
    assert (tmp_path / 'out/train.png').exists()


def test_missing_checkpoint(shapes, tmp_path):
    """A missing checkpoint is named by the test tool, alone and distributed."""
    missing = tmp_path / 'none.pth'
    options = ['--data-root', shapes / 'coco']
    assert f'{missing} does not exist' in one_line_error('test.py', DET, missing, *options)
    distributed = one_line_error('dist_test.sh', DET, missing, 2, *options)
    assert f'{missing} does not exist' in distributed


def test_dist_train_checks_first(tmp_path):
    """dist_train.sh shows the one line, not the reports of its processes."""
    error = one_line_error('dist_train.sh', 'configs/nothing.py', 2)
    assert 'configs/nothing.py does not exist' in error
    error = one_line_error('dist_train.sh', DET, 2, '--data-root', tmp_path)
    assert 'instances_train2017.json does not exist' in error
    assert "got 'many'" in one_line_error('dist_train.sh', DET, 'many')


def test_dist_train_takes_restarts(tmp_path):
    """MAX_RESTARTS is checked before processes are started."""
    config, env = write_config(tmp_path), dict(PYTHONPATH=TESTS)
    command = ['dist_train.sh', config, 2, '--work-dir', tmp_path]
    error = one_line_error(*command, env=dict(env, MAX_RESTARTS='often'))
    assert error == "error: MAX_RESTARTS must be a number from 0 up, got 'often'"
    (tmp_path / 'iter_6.pth').touch()
    error = one_line_error(*command, env=dict(env, MAX_RESTARTS='2'))
    assert f'would resume from {tmp_path}/iter_6.pth' in error


def test_functions_of_other_packages(tmp_path):
    """They run what a file asks for, until read_safely() is called."""
    pytest.importorskip('mmpretrain')
    trap, path = tmp_path / 'sprung', str(tmp_path / 'code.pth')
    torch.save(dict(state_dict={}, extra=Code(trap)), path)
    code = f"""
import os, gcvit_mm
from mmpretrain.apis import get_model
from gcvit_mm.checkpoints import read_safely
config, path, trap = {str(ROOT / CLS)!r}, {path!r}, {str(trap)!r}
get_model(config, pretrained=path)
assert os.path.exists(trap)
os.remove(trap)
read_safely()
try:
    get_model(config, pretrained=path)
except gcvit_mm.CheckpointError as error:
    print(error, os.path.exists(trap))
"""
    done = subprocess.run([sys.executable, '-c', code], env=ENV, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
    said = done.stdout.splitlines()[-1]
    assert said.startswith(f'checkpoint {path} is no plain file') and said.endswith('False')


# ------------------------------------------------------------- the doctor
BLOCK = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[2].split(',')))
import runpy
runpy.run_path(sys.argv[1], run_name='__main__')
"""


def test_runs_without_rich_and_packaging():
    """Where not even the helpers are there: plain lines, and the ranges are not known."""
    done = subprocess.run(
        [sys.executable, '-c', BLOCK, str(DOCTOR), 'rich,rich.console,packaging'],
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert 'Traceback' not in done.stdout
    assert done.returncode == 1
    assert 'error: gcvit_mm: its requirements cannot be read' in done.stdout


@pytest.mark.parametrize('command', [['-m', 'gcvit_mm', 'doctor'], [str(DOCTOR)]])
def test_command_line(command):
    """python -m gcvit_mm doctor reports on the environment that runs these tests."""
    done = subprocess.run(
        [sys.executable, *command],
        env=ENV,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert 'Traceback' not in done.stdout, done.stdout
    assert importlib.metadata.version('torch') in done.stdout
    assert done.returncode == int('error: ' in done.stdout)
