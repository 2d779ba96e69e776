"""Programs of their own: what they print, and their status."""

import subprocess
import sys

from support.running import DET, ENV, ROOT, one_line_error, run


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
