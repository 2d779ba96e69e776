"""Training that is killed at random moments, and processes that torchrun starts again."""

import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from gcvit_mm.datacheck import check
from gcvit_mm.datacheck.drawing import spread
from gcvit_mm.engine.resuming import numbered_checkpoints
from gcvit_mm.engine.whole_files import UNFINISHED
from support.faulty_run import STEPS, curve, train_heavy, write_config
from support.forked import Forked, run_ranks, tool
from support.processes import attempts, finish, free_port, moments, start_training, state_of
from support.running import (
    FOLDERS,
    SEG,
    SMALL_RCNN,
    TESTS,
    iterations,
    losses,
    one_line_error,
    run,
    start,
)
from support.small_run import load


def start_heavy(work_dir, interval):
    """Start a process of ``faulty_run``."""
    work_dir.mkdir(exist_ok=True)
    return Forked(work_dir.with_suffix('.log'), train_heavy, str(work_dir), interval)


def stop_while_writing(process, unfinished):
    """Stop a process while a checkpoint is being written."""
    for _ in moments(process, 'checkpoint'):
        if unfinished.exists():
            process.send_signal(signal.SIGSTOP)
            while state_of(process.pid) != 'T':
                time.sleep(0.001)
            if unfinished.exists():
                return
            process.send_signal(signal.SIGCONT)  # it was just done


@pytest.mark.skipif(not Path('/proc').is_dir(), reason='reads states of processes in /proc')
def test_killed_at_random_moments(tmp_path):
    """Five kills, three of them while a checkpoint is being written: the curve stays the same."""
    chance = random.Random(0)
    whole = start_heavy(tmp_path / 'whole', STEPS)
    assert whole.wait(300) == 0, whole.communicate()[0][-4000:]
    expected = dict(curve(tmp_path / 'whole'))
    assert list(expected) == list(range(1, STEPS + 1))
    assert len(set(expected.values())) == STEPS

    work_dir = tmp_path / 'killed'
    unfinished = work_dir / UNFINISHED
    for writing in (True, False, True, False, True):
        before = curve(work_dir)
        saved = numbered_checkpoints(str(work_dir))
        if writing and unfinished.exists():
            unfinished.unlink()  # what the last kill left would be taken for new
        process = start_heavy(work_dir, 1)
        try:
            steps = chance.randint(1, 5)
            for _ in moments(process, f'{steps} steps'):
                if len(curve(work_dir)) >= len(before) + steps:
                    break
            if writing:
                stop_while_writing(process, unfinished)
            else:
                time.sleep(chance.uniform(0, 0.05))
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert unfinished.exists() or not writing
        # It resumed from the last checkpoint there was.
        step = int(saved[0].split('iter_')[1][:-4]) if saved else 0
        assert curve(work_dir)[len(before)][0] == step + 1

    process = start_heavy(work_dir, 1)
    assert process.wait(300) == 0, process.communicate()[0][-4000:]
    found = curve(work_dir)
    assert {step for step, _ in found} == set(expected)
    # Steps that were trained twice, too.
    assert [loss for _, loss in found] == pytest.approx([expected[s] for s, _ in found], abs=1e-5)
    last = f'iter_{STEPS}.pth'
    weights, others = (load(tmp_path / f / last)['state_dict'] for f in ('whole', 'killed'))
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, atol=1e-5, rtol=1e-5)
    assert not unfinished.exists() and len(numbered_checkpoints(str(work_dir))) == 2


# ------------------------------------------------------------- torchrun starts again
def test_torchrun_restarts(tmp_path):
    """A rank killed twice, before and after the first checkpoint: the curve stays the same."""
    words = ['train.py', write_config(tmp_path), '--work-dir', tmp_path / 'whole']
    status, output = run_ranks(tmp_path, tool, *map(str, words), '--launcher', 'pytorch')
    (expected,) = attempts(output)
    assert status == 0 and list(expected) == list(range(1, 13))

    process = start_training(write_config(tmp_path, (2, 8)), tmp_path / 'work', True, 2)
    output = finish(process, 300)
    assert process.returncode == 0, output[-4000:]
    found = attempts(output)
    assert [min(part) for part in found] == [1, 1, 7] and max(found[2]) == 12
    for part in found:
        assert part == pytest.approx({step: expected[step] for step in part}, abs=1e-5)


def test_one_rank_is_killed(tmp_path):
    """Without restarts the other process ends too; rank and signal are named."""
    process = start_training(write_config(tmp_path, (2,)), tmp_path / 'work', True, 0)
    try:
        for _ in moments(process, 'death of rank 1'):
            if (tmp_path / 'work/died_2').exists():
                break
    finally:
        output = finish(process, 300)
    assert process.returncode not in (0, -signal.SIGKILL)
    assert re.search(r'rank\s*: 1 ', output) and 'Signal 9 (SIGKILL)' in output, output[-4000:]


# ------------------------------------------------------------- detectors and segmentors
def test_killed_training_goes_on(shapes, tmp_path):
    """tools/train.py, killed after step 3, goes on with the losses it would have had."""
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv._ext', reason='the compiled ops of mmcv are not installed')

    def command(work_dir, *more):
        return [
            'train.py',
            'configs/mask_gcvit_xxt_shapes.py',
            '--work-dir',
            work_dir,
            '--data-root',
            shapes / 'coco',
            *more,
            '--cfg-options',
            *iterations(6),
            *SMALL_RCNN,
            'train_cfg.val_begin=100',
            'default_hooks.checkpoint.interval=3',
            'train_dataloader.batch_size=1',
            'log_processor.num_digits=7',
            'log_processor.window_size=1',
            'randomness.seed=5',
        ]

    whole = run(*command(tmp_path / 'whole'))
    process = Forked(tmp_path / 'killed.log', tool, *map(str, command(tmp_path / 'killed')))
    try:
        for _ in moments(process, 'checkpoint'):
            if (tmp_path / 'killed/iter_3.pth').exists():
                break
    finally:
        process.kill()
        process.wait()
    assert not (tmp_path / 'killed/iter_6.pth').exists()
    resumed = run(*command(tmp_path / 'killed', '--resume'))
    expected, found = losses(whole), losses(resumed)
    assert sorted(expected) == [1, 2, 3, 4, 5, 6] and sorted(found) == [4, 5, 6]
    assert len(set(expected.values())) == 6 and re.search(r'loss: \d+\.\d{7}', whole)
    assert found == pytest.approx({step: expected[step] for step in found}, abs=1e-5)


DIES = """
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class Dies(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if get_rank() == 1 and runner.iter == 1:
            raise ValueError('rank one has had enough')
"""


def test_one_rank_dies(tmp_path):
    """The other process ends too, with the error of the first and a status that is not 0."""
    (tmp_path / 'dies.py').write_text(DIES)
    (tmp_path / 'config.py').write_text(
        f"_base_ = '{write_config(tmp_path)}'\n"
        "custom_imports = dict(imports=['support.faulty_run', 'dies'])\n"
        "default_hooks = dict(raises=dict(type='Dies'))\n"
        'train_cfg = dict(max_iters=1000000)\n'
    )
    command = ['dist_train.sh', tmp_path / 'config.py', 2, '--work-dir', tmp_path / 'work']
    env = dict(PORT=free_port(), PYTHONPATH=f'{TESTS}:{tmp_path}')
    process = start(*command, env=env, start_new_session=True)
    output = finish(process, 300)  # it would train for hours
    assert 'ValueError: rank one has had enough' in output, output[-4000:]
    assert process.returncode != 0


def small_segmentor(data, *options):
    """Words after ``train.py`` for a short training in a worker of its own."""
    return [
        SEG,
        '--data-root',
        data / FOLDERS[SEG],
        '--cfg-options',
        'train_cfg.max_iters=30',
        'train_dataloader.num_workers=1',
        'model.data_preprocessor.size=(64,64)',
        'train_dataloader.dataset.pipeline.2.crop_size=(64,64)',
        *options,
    ]


def test_training_names_the_image_of_a_worker(shapes, tmp_path):
    """An image that breaks while training runs: a line with its name, no report of the worker."""
    data = tmp_path / 'shapes'
    shutil.copytree(shapes, data)
    images = sorted((data / FOLDERS[SEG] / 'images/training').glob('*.jpg'))
    # the fast check looks at eight of sixteen, the first and the last among them
    looked_at = {str(path) for path in spread(images, check.GLANCE)}
    path = next(path for path in images if str(path) not in looked_at)
    path.write_bytes(path.read_bytes()[:100])
    error = one_line_error('train.py', *small_segmentor(data), f'work_dir={tmp_path}')
    assert f'image {path} cannot be read' in error and 'take it out of the data' in error
