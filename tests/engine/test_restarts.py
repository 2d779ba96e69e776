"""What a run that torchrun starts again resumes from."""

from types import SimpleNamespace

import pytest
from mmengine.config import Config

from gcvit_mm import CheckpointError, UserError
from gcvit_mm.cli import check_restarts, check_strategy
from gcvit_mm.engine import SafeCheckpointHook
from support.running import ROOT
from support.small_run import train


def restarted(monkeypatch, work_dir, **changes):
    """Train as torchrun's first restart does; return the losses by step."""
    with monkeypatch.context() as patch:
        patch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
        return train(work_dir, seed=1, **changes)


def test_restart_goes_on(tmp_path, monkeypatch):
    """From the last checkpoint; where there is none from what the run was started with."""
    assert sorted(restarted(monkeypatch, tmp_path)) == list(range(1, 13))
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_9.pth'))
    assert sorted(restarted(monkeypatch, tmp_path)) == [10, 11, 12]
    assert sorted(train(tmp_path, seed=1)) == list(range(1, 13))  # a first start does not
    # weights to start from, and a checkpoint named by --resume
    other, options = tmp_path / 'other', dict(load_from=str(tmp_path / 'iter_6.pth'))
    tuned = train(tmp_path / 'tuned', seed=1, **options)
    assert restarted(monkeypatch, other, **options) == pytest.approx(tuned, abs=1e-5)
    (other / 'last_checkpoint').write_text(str(other / 'iter_9.pth'))
    assert sorted(restarted(monkeypatch, other, **options)) == [10, 11, 12]
    empty = tmp_path / 'empty'
    assert sorted(restarted(monkeypatch, empty, resume=True, **options)) == list(range(7, 13))
    with pytest.raises(CheckpointError, match='nothing to resume from'):
        for path in empty.glob('iter_*.pth'):
            path.write_bytes(b'x')
        restarted(monkeypatch, empty)


def test_restarted_evaluation_loads_its_own(tmp_path, monkeypatch):
    """Only training goes on by itself: what is evaluated stays what was asked for."""
    (tmp_path / 'iter_3.pth').write_bytes(b'x')
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    runner = SimpleNamespace(
        _train_loop=dict(), _resume=False, _load_from='named.pth', work_dir=str(tmp_path)
    )
    SafeCheckpointHook().before_run(runner)
    assert (runner._resume, runner._load_from) == (False, 'named.pth')


def test_restarts_need_a_work_dir_of_their_own(tmp_path, monkeypatch):
    """Checkpoints of another run are not to be taken for those of the one that is restarted."""
    cfg = Config(dict(work_dir=str(tmp_path), resume=False, load_from=None))
    monkeypatch.setenv('TORCHELASTIC_MAX_RESTARTS', '3')
    check_restarts(cfg)
    (tmp_path / 'iter_3.pth').touch()
    (tmp_path / 'iter_6.pth').touch()
    with pytest.raises(UserError, match='would resume from .*iter_6.pth'):
        check_restarts(cfg)
    cfg.resume = True
    check_restarts(cfg)
    cfg.load_from = str(tmp_path / 'iter_6.pth')
    check_restarts(cfg)
    cfg.load_from = str(tmp_path / 'iter_3.pth')
    with pytest.raises(UserError, match='--resume without a file'):
        check_restarts(cfg)
    monkeypatch.setenv('TORCHELASTIC_MAX_RESTARTS', '0')
    check_restarts(cfg)


def test_strategies_that_do_not_go_on(monkeypatch):
    """mmengine's own: said before anything is trained, naming those that do; ours do."""
    cfg = Config.fromfile(ROOT / 'configs/strategies/deepspeed.py')
    cfg.strategy.type = 'DeepSpeedStrategy'
    check_strategy(cfg)
    cfg.resume = True
    with pytest.raises(UserError, match='load_from=CHECKPOINT'):
        check_strategy(cfg)
    cfg.resume = False
    monkeypatch.setenv('TORCHELASTIC_MAX_RESTARTS', '1')
    with pytest.raises(UserError, match='cannot go on with a DeepSpeedStrategy.*fsdp.py'):
        check_strategy(cfg)
    cfg.pop('runner_type')
    check_strategy(cfg)
    for name in ('ddp', 'fsdp', 'deepspeed'):
        check_strategy(Config.fromfile(ROOT / f'configs/strategies/{name}.py'))
