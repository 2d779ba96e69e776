"""A signal ends a run after the step at hand, with a checkpoint that it goes on from."""

import os
import signal
import stat

import pytest
import torch
from mmengine.hooks import Hook

from gcvit_mm.engine.stopping import StopOnSignal, requeue
from support.judged_run import assert_same_best, judged
from support.small_run import change, load, train


class Send(Hook):
    """Sends a signal to this process in a step."""

    def __init__(self, step, number=signal.SIGTERM):
        self.step, self.number = step, number

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == self.step:
            signal.raise_signal(self.number)


def ended(work_dir, step, number=signal.SIGTERM, **options):
    """Train until a signal ends it; return the status."""
    hooks = dict(stop=dict(type='StopOnSignal'), send=Send(step, number))
    hooks.update(options.pop('hooks', {}))
    with pytest.raises(SystemExit) as error:
        train(work_dir, hooks=hooks, **options)
    return error.value.code


def weights(work_dir, name):
    """Parameters of a checkpoint, as one vector."""
    return torch.cat([v.double().flatten() for v in load(work_dir / name)['state_dict'].values()])


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('loop', ['iterations', 'epochs'])
@pytest.mark.parametrize('step', [1, 5, 6, 12])
def test_goes_on_as_without_a_break(step, loop, workers, tmp_path):
    """Inside an epoch of three steps, at its end, at the first and the last step."""
    before = signal.getsignal(signal.SIGTERM)
    whole = train(tmp_path / 'whole', loop, seed=1)
    assert ended(tmp_path / 'run', step, loop=loop, workers=workers, seed=1) == 143
    assert signal.getsignal(signal.SIGTERM) is before
    inside = loop == 'epochs' and step % 3
    name = f'epoch_{step // 3}.pth' if loop == 'epochs' and not inside else f'iter_{step}.pth'
    assert (tmp_path / 'run/last_checkpoint').read_text() == str(tmp_path / 'run' / name)
    rest = train(tmp_path / 'run', loop, workers, resume=True)
    assert rest == pytest.approx({k: v for k, v in whole.items() if k > step}, rel=1e-6)
    last = 'epoch_4.pth' if loop == 'epochs' else 'iter_12.pth'
    assert torch.equal(weights(tmp_path / 'run', last), weights(tmp_path / 'whole', last))
    if inside:  # the next one takes its place
        assert not (tmp_path / 'run' / name).exists()


@pytest.mark.parametrize('loop', ['iterations', 'epochs'])
def test_ended_twice_in_an_epoch(loop, tmp_path):
    """Several starts end inside of an epoch, the third at its end."""
    whole = train(tmp_path / 'whole', loop, seed=1)
    found = {}
    for step in (4, 5, 6, 8):
        record = Keep()
        ended(tmp_path / 'run', step, loop=loop, seed=1, resume=step > 4, hooks=dict(keep=record))
        found.update(record.losses)
    found.update(train(tmp_path / 'run', loop, resume=True))
    assert found == pytest.approx(whole, rel=1e-6)


class Keep(Hook):
    """Keeps the losses."""

    def __init__(self):
        self.losses = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses[runner.iter + 1] = outputs['loss'].item()


@pytest.mark.parametrize(
    ('number', 'status'), [(signal.SIGINT, 130), (signal.SIGUSR1, 138), (signal.SIGTERM, 143)]
)
def test_status_and_line(number, status, tmp_path, caplog, capfd):
    """Which signal it was, where to go on, and that a second one ends at once."""
    assert ended(tmp_path, 2, number) == status
    name = signal.Signals(number).name
    assert f'{name}: ending after this step; a second one ends at once' in capfd.readouterr().err
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert f'ended by {name} after step 2: go on with --resume ({tmp_path}/iter_2.pth)' in log


def test_nothing_to_save_with(tmp_path):
    """mmengine's own hook: the run ends all the same, and says so."""
    hooks = dict(checkpoint=dict(type='CheckpointHook', interval=3, by_epoch=False))
    assert ended(tmp_path, 2, hooks=hooks) == 143
    assert 'nothing saved' in next(tmp_path.glob('*/*.log')).read_text()
    assert not list(tmp_path.glob('*.pth'))


@pytest.mark.parametrize('counts', [2, 4, 5])
def test_accumulated_gradients(counts, tmp_path):
    """A step that the optimizer has not seen yet is in the checkpoint."""
    wrapper = dict(optimizer=dict(type='AdamW', lr=0.05), accumulative_counts=counts)
    whole = train(tmp_path / 'whole', seed=1, optim_wrapper=wrapper)
    train(tmp_path / 'run', seed=1, stop=4, optim_wrapper=wrapper)  # saved after the third
    assert set(load(tmp_path / 'run/iter_3.pth')['gradients']) == {
        f'layers.{i}.{kind}' for i in (0, 1, 3) for kind in ('weight', 'bias')
    }
    rest = train(tmp_path / 'run', resume=True, optim_wrapper=wrapper)
    assert rest == pytest.approx({k: v for k, v in whole.items() if k > 3}, rel=1e-6)
    assert torch.equal(*(weights(tmp_path / run, 'iter_12.pth') for run in ('run', 'whole')))
    assert 'gradients' not in load(tmp_path / 'run/iter_12.pth')


ODD = {'layers.0.weight': torch.ones(2, 2), 'x': torch.ones(1), 'layers.0.bias': 'a'}


@pytest.mark.parametrize('odd', [ODD, 3])
def test_odd_gradients(odd, tmp_path):
    """Those of another model, or none at all, are left: training goes on without them."""
    whole = train(tmp_path / 'whole', seed=1)
    train(tmp_path / 'run', seed=1, stop=4)
    change(tmp_path / 'run/iter_3.pth', lambda content: content.update(gradients=odd))
    rest = train(tmp_path / 'run', resume=True)
    assert rest == pytest.approx({k: v for k, v in whole.items() if k > 3}, rel=1e-6)


class SendInEvaluation(Hook):
    """Sends a signal in the second evaluation."""

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 6 and batch_idx == 1:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize('loop', ['iterations', 'epochs'])
def test_ended_while_evaluating(loop, tmp_path):
    """The evaluation begins anew; the best checkpoint is that of a run without a break."""
    judged(tmp_path / 'whole', loop=loop)
    # before the hook that looks at it
    hooks = dict(send=SendInEvaluation(), stop=dict(type='StopOnSignal'))
    with pytest.raises(SystemExit) as error:
        judged(tmp_path / 'run', loop=loop, hooks=hooks)
    assert error.value.code == 143
    name = 'epoch_2.pth' if loop == 'epochs' else 'iter_6.pth'
    assert (tmp_path / 'run/last_checkpoint').read_text() == str(tmp_path / 'run' / name)
    assert judged(tmp_path / 'run', loop=loop, resume=True).asked == 3
    assert_same_best(tmp_path / 'run', tmp_path / 'whole')


def test_one_signal_that_comes_twice():
    """A terminal and torchrun both pass on one Ctrl-C."""
    hook = StopOnSignal()
    hook.receive(signal.SIGINT, None)
    hook.receive(signal.SIGINT, None)
    assert hook.number == signal.SIGINT


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A scontrol that writes down what it was asked, and fails for job 3."""
    program = tmp_path / 'bin/scontrol'
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'
        '[ "$2" != 3 ] || { echo "slurm_requeue error: Requested operation is disabled"; exit 1; }'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv('PATH', f'{program.parent}:{os.environ["PATH"]}')
    for name in ('SLURM_JOB_ID', 'SLURM_ARRAY_JOB_ID', 'SLURM_ARRAY_TASK_ID'):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / 'asked'


def test_queued_again(slurm, tmp_path, monkeypatch):
    """After SIGUSR1 in a job of Slurm; the job, started anew, resumes without being told."""
    monkeypatch.setenv('SLURM_JOB_ID', '17')
    whole = train(tmp_path / 'whole', seed=1)
    assert ended(tmp_path / 'run', 4, signal.SIGUSR1, seed=1) == 138
    assert slurm.read_text() == 'requeue 17\n'
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert 'Slurm queues job 17 again, which resumes' in log
    monkeypatch.setenv('SLURM_RESTART_COUNT', '1')
    rest = train(tmp_path / 'run')
    assert rest == pytest.approx({k: v for k, v in whole.items() if k > 4}, rel=1e-6)


def test_whether_it_is_queued_again(slurm, monkeypatch):
    """No job, an array's, one that may not, no scontrol; other signals ask for nothing."""
    assert requeue() == '' and not slurm.exists()
    monkeypatch.setenv('SLURM_JOB_ID', '3')
    assert 'job 3 is not queued again (scontrol requeue: slurm_requeue error' in requeue()
    monkeypatch.setenv('SLURM_ARRAY_JOB_ID', '9')
    monkeypatch.setenv('SLURM_ARRAY_TASK_ID', '2')
    assert requeue() == 'Slurm queues job 9_2 again, which resumes'
    assert slurm.read_text().splitlines() == ['requeue 3', 'requeue 9_2']
    monkeypatch.setenv('PATH', '')
    assert 'job 9_2 is not queued again (' in requeue() and '--resume' in requeue()
