"""A run knows its own checkpoints: it removes no others, and loses none of its best."""

import math
import os
import shutil
import subprocess
import sys

import pytest
from mmengine.hooks import Hook

from gcvit_mm import CheckpointError, UserError
from gcvit_mm.engine.identity import belongs, lock_folder, new_start, read_line
from gcvit_mm.engine.whole_files import BACKGROUND, RemoveLater
from support.judged_run import assert_same_best, best, judged
from support.running import ENV, ROOT
from support.small_run import change, load, train


# ------------------------------------------------------------- only its own files go
@pytest.mark.parametrize('what', ['file', 'folder', 'link', 'inside', 'dots'])
def test_resumed_run_removes_no_other_file(what, tmp_path):
    """A better score removes the best checkpoint before; where that lies is what a file says."""
    run, other = tmp_path / 'run', tmp_path / 'other'
    judged(run, broken=5)
    other.mkdir()
    (other / 'best_acc_iter_1.pth').write_text('precious')
    target = dict(
        file=other / 'best_acc_iter_1.pth',
        folder=other,
        link=run / 'best_link.pth',
        inside=run / 'notes.txt',
        dots=run / '..' / 'other' / 'best_acc_iter_1.pth',
    )[what]
    if what == 'link':
        target.symlink_to(other / 'best_acc_iter_1.pth')
    if what == 'inside':
        target.write_text('precious')
    info = dict(best_ckpt=str(target), best_score=-9.0)
    change(run / 'iter_3.pth', lambda c: c['message_hub']['runtime_info'].update(info))
    judged(run, resume=True)
    assert list(run.glob('best_acc_iter_*'))
    assert (other / 'best_acc_iter_1.pth').read_text() == 'precious'
    if what in ('link', 'inside'):
        assert target.exists()


@pytest.mark.parametrize('how', ['resume a file', 'copied folder'])
def test_fork_leaves_the_original_alone(how, tmp_path):
    """Another run that resumes from a checkpoint keeps its own best, and touches no other's."""
    first, fork = tmp_path / 'a', tmp_path / 'b'
    judged(first, broken=7, keep=2)
    if how == 'copied folder':
        shutil.copytree(first, fork)
    before = {path: path.read_bytes() for path in first.iterdir() if path.suffix == '.pth'}
    assert any(path.name.startswith('best_') for path in before)
    named = dict(load_from=str(first / 'iter_6.pth')) if how == 'resume a file' else {}
    judged(fork, resume=True, keep=2, **named)
    assert {p: p.read_bytes() for p in first.iterdir() if p.suffix == '.pth'} == before
    assert len(list(fork.glob('best_*'))) == 1
    assert read_line(str(fork))[0][0] != read_line(str(first))[0][0] or how == 'copied folder'


def test_fork_into_a_used_folder(tmp_path):
    """Names that two runs share are no reason to remove: the steps kept are those of one run."""
    first, fork = tmp_path / 'a', tmp_path / 'b'
    judged(first, broken=7, keep=2)
    fork.mkdir()
    for name in ('iter_3.pth', best(first)[0]):
        (fork / name).write_text('precious')
    judged(fork, resume=True, keep=2, load_from=str(first / 'iter_6.pth'))
    assert (fork / 'iter_3.pth').read_text() == 'precious'


def test_removal_is_of_regular_files_by_name(tmp_path):
    """Whatever mmengine asks for; folders only if this process has saved them."""
    backend = RemoveLater(str(tmp_path), 'iter_{}.pth')
    for name in ('iter_3.pth', 'best_acc_iter_3.pth', 'notes.pth', 'iter_3.pth.bak'):
        (tmp_path / name).write_text('x')
        backend.remove(str(tmp_path / name))
    (tmp_path / 'iter_6.pth').mkdir()
    (tmp_path / 'iter_9.pth').mkdir()
    backend.saved.add('iter_9.pth')
    for name in ('iter_6.pth', 'iter_9.pth', '.', '..'):
        backend.rmtree(str(tmp_path / name))
    backend.remove_now()
    BACKGROUND.finish()
    assert sorted(os.listdir(tmp_path)) == ['iter_3.pth.bak', 'iter_6.pth', 'notes.pth']


@pytest.mark.parametrize('score', [math.nan, math.inf, 'best', None])
def test_odd_best_scores_are_forgotten(score, tmp_path):
    """No score could be better than those, and no best checkpoint would be saved again."""
    judged(tmp_path, broken=5)
    info = dict(best_score=score)
    change(tmp_path / 'iter_3.pth', lambda c: c['message_hub']['runtime_info'].update(info))
    for path in tmp_path.glob('best_*'):
        path.unlink()
    judged(tmp_path, resume=True)
    judged(tmp_path / 'whole')
    assert_same_best(tmp_path, tmp_path / 'whole')


# ------------------------------------------------------------- which checkpoint
def test_last_checkpoint_is_a_name_in_this_folder(tmp_path):
    """Wherever it says the file lies, as after a folder was copied."""
    first, copy = tmp_path / 'a', tmp_path / 'b'
    train(first, seed=1, stop=10)
    shutil.copytree(first, copy)
    shutil.copy(first / 'iter_3.pth', first / 'iter_9.pth')  # the original goes its own way
    assert sorted(train(copy, seed=1, resume=True)) == [10, 11, 12]


def saves(interval):
    """The hook, saving at other steps."""
    return dict(checkpoint=dict(type='SafeCheckpointHook', interval=interval, by_epoch=False))


def test_branches_that_were_given_up_are_passed_over(tmp_path):
    """Steps 4 and 8, back to 4 and on by threes: after a damaged 9 comes 6, then 4; never 8."""
    train(tmp_path, seed=1, stop=9, hooks=saves(4))
    assert (tmp_path / 'iter_8.pth').exists()
    train(
        tmp_path,
        seed=1,
        stop=10,
        resume=True,
        hooks=saves(3),
        load_from=str(tmp_path / 'iter_4.pth'),
    )
    for name, step in (('iter_9.pth', 7), ('iter_6.pth', 5)):
        (tmp_path / name).write_bytes(b'x')
        resumed = train(tmp_path, seed=1, resume=True, stop=9, hooks=saves(99))
        assert min(resumed) == step


def test_last_branch_counts_though_nothing_was_saved(tmp_path):
    """Back to step 3 and killed at once: --resume resumes from there, not from the end."""
    train(tmp_path, seed=1)
    train(tmp_path, seed=1, resume=True, stop=4, load_from=str(tmp_path / 'iter_3.pth'))
    assert min(train(tmp_path, seed=1, resume=True)) == 4


def test_checkpoints_of_another_run_are_passed_over(tmp_path, monkeypatch):
    """A new run in a used folder, killed before it saves, does not resume from the old one."""
    train(tmp_path, seed=1)
    train(tmp_path, seed=2, stop=2)
    with pytest.raises(CheckpointError, match='iter_12.pth is of another run'):
        train(tmp_path, seed=2, resume=True)
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    assert min(train(tmp_path, seed=2)) == 1


def test_checkpoints_without_identity_go_on(tmp_path):
    """Those of mmengine and of earlier releases; and again from what follows them."""
    train(tmp_path, seed=1, stop=7)
    for path in tmp_path.glob('iter_*.pth'):
        change(path, lambda content: content['meta'].pop('run'))
    (tmp_path / 'run.json').unlink()
    assert min(train(tmp_path, seed=1, resume=True, stop=10)) == 7
    (tmp_path / 'iter_9.pth').write_bytes(b'x')
    assert min(train(tmp_path, seed=1, resume=True)) == 7


def test_line_of_starts():
    """A start belongs to the line up to where the next one begins."""
    line = new_start([], 0)
    second = new_start(line, 6)
    (a, _), (b, _) = second
    assert len({a, b}) == 2 and belongs(a, 6, second) and belongs(b, 9, second)
    assert not belongs(a, 7, second) and not belongs('other', 1, second)
    assert [begin for _, begin in new_start(second, 6)] == [0, 6]  # b has saved nothing
    assert [begin for _, begin in new_start(second, 9)] == [0, 6, 9]


@pytest.mark.parametrize(
    'text', ['', '[', '{"line": 3}', '{"line": [[1, 2]]}', '[' * 99999, 'null']
)
def test_odd_records_are_none(text, tmp_path):
    """A damaged run.json is as good as none: the run goes on by its checkpoints."""
    train(tmp_path, seed=1, stop=7)
    (tmp_path / 'run.json').write_text(text)
    assert read_line(str(tmp_path)) == []
    assert min(train(tmp_path, seed=1, resume=True, stop=8)) == 7


# ------------------------------------------------------------- one run a folder
def test_folder_is_locked(tmp_path):
    """A second process is told host and process; once the first has ended, the folder is free."""
    code = (
        'import sys, time; from gcvit_mm.engine.identity import lock_folder\n'
        'lock_folder(sys.argv[1]); print("locked", flush=True); time.sleep(300)'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', code, str(tmp_path)], stdout=subprocess.PIPE, env=ENV, cwd=ROOT
    )
    try:
        assert process.stdout.readline() == b'locked\n'
        with pytest.raises(UserError) as caught:
            train(tmp_path, seed=1)
        host = os.uname().nodename
        assert f'process {process.pid} on {host} is training in it' in str(caught.value)
    finally:
        process.kill()
        process.communicate()
    lock_folder(str(tmp_path))
    assert (tmp_path / 'run.lock').read_text() == f'process {os.getpid()} on {host}'


# ------------------------------------------------------------- evaluated or not
class DieBetween(Hook):
    """Breaks off after the best checkpoint is written, before the last one is written again."""

    def __init__(self, step):
        self.step = step

    def before_save_checkpoint(self, runner, checkpoint):
        names = [path.name for path in os.scandir(runner.work_dir)]
        if f'best_acc_iter_{self.step}.pth' in names and runner.iter == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize('loop', ['iterations', 'epochs'])
@pytest.mark.parametrize('stop', [1, 2, 3, 4])
def test_killed_evaluation_loses_no_best(stop, loop, tmp_path):
    """Killed in any of the evaluations, that after the last step too, and gone on with."""
    whole = judged(tmp_path / 'whole', loop=loop)
    assert whole.asked == 4
    run = tmp_path / 'run'
    judged(run, stop=(stop,), loop=loop)
    resumed = judged(run, resume=True, loop=loop)
    assert resumed.asked == 4 - stop + 1
    assert_same_best(run, tmp_path / 'whole')


def test_killed_between_best_and_last(tmp_path):
    """The best file is there, the last checkpoint does not know it yet."""
    judged(tmp_path / 'whole')
    name, _ = best(tmp_path / 'whole')
    step = int(name.split('_')[-1][: -len('.pth')])
    run = tmp_path / 'run'
    judged(run, hooks=dict(die=DieBetween(step)))
    assert (run / name).exists()
    assert load(run / f'iter_{step}.pth')['message_hub']['runtime_info'].get('best_ckpt') != name
    judged(run, resume=True)
    assert_same_best(run, tmp_path / 'whole')


def test_evaluated_steps_are_not_evaluated_again(tmp_path):
    """Broken off after an evaluation, whether that was the best or not."""
    for broken, left in ((4, 3), (7, 2), (10, 1)):
        run = tmp_path / str(broken)
        judged(run, broken=broken)
        assert judged(run, resume=True).asked == left
    assert judged(run, resume=True).asked == 0  # it had ended


def test_best_that_is_gone_is_counted_anew(tmp_path):
    """A best checkpoint that somebody removed does not keep the next from being saved."""
    judged(tmp_path, broken=10)
    for path in tmp_path.glob('best_*'):
        path.unlink()
    judged(tmp_path, resume=True)
    assert len(list(tmp_path.glob('best_*'))) == 1
