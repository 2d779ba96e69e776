"""How long a run takes: the arithmetic, and steps that are really run."""

import json
import time

import pytest
from mmengine.config import Config

from gcvit_mm.cli import plan
from gcvit_mm.cli.measuring import span
from gcvit_mm.planning.predict import Load
from gcvit_mm.planning.timing import Timed, pace, schedule
from support.classifier import draw_folders, write_classifier

LOAD = Load((64, 64), (64, 64), 2, 5, 3, 0, 'drawn')


def test_who_waits_for_whom():
    slow = Timed([1.0, 1.0], [4.0, 4.0], 0)
    assert pace(slow, 2) == (2.0, 0.0, 0.5, 4)
    assert pace(slow, 0) == (5.0, 0.0, 0.8, 4)
    assert pace(slow, 8) == (1.0, 0.0, 0.0, 4)
    assert pace(Timed([1.0, 3.0], [], 0), 2) == (2.0, pytest.approx(2.0), 0.0, None)


def test_schedule():
    cfg = Config(
        dict(
            train_dataloader=dict(num_workers=0),
            val_dataloader=dict(num_workers=2),
            train_cfg=dict(max_epochs=12, val_interval=5),
            val_cfg=dict(),
        )
    )
    training, test = Timed([1.0, 1.0], [0.5, 0.5], 100), Timed([0.5, 0.5], [0.1, 0.1], 50)
    found = schedule(cfg, LOAD, training, test, processes=4)
    assert (found['steps'], found['evaluations']) == (12 * 13, 3)  # after 5, 10 and 12 epochs
    assert found['epoch'] == (13 * 1.5, 0.0) and found['evaluation'] == (3 * 0.5, 0.0)
    assert found['whole'] == (12 * 13 * 1.5 + 3 * 3 * 0.5, 0.0)
    unknown = schedule(cfg, LOAD, training._replace(pictures=0), test._replace(pictures=0))
    assert unknown['epoch'] is unknown['evaluation'] is unknown['whole'] is None
    cfg.train_cfg = dict(max_iters=40, val_interval=40)
    assert schedule(cfg, LOAD, training, test)['whole'][0] == 40 * 1.5 + 10 * 0.5


def test_spans_have_units():
    assert span((7.0, 1.0)) == '7.0 s (+- 1.0)'
    assert span((90.0, 6.0)) == '1.5 min (+- 0.1)'
    assert span((7200.0, 360.0)) == '2.0 h (+- 0.1)'


def planned(capsys, config, *words):
    plan.main([str(config), '--json', '--size', '64', '64', *words])
    return json.loads(capsys.readouterr().out.splitlines()[-1])['measured']


def test_pictures_of_the_data(tmp_path, capsys, monkeypatch):
    """Through its pipeline; a step waits for the slow one's pictures."""
    pytest.importorskip('mmpretrain')
    from mmcv.transforms import LoadImageFromFile

    read, delay = LoadImageFromFile.transform, 0.05

    def read_slowly(self, results):
        time.sleep(delay)
        return read(self, results)

    monkeypatch.setattr(LoadImageFromFile, 'transform', read_slowly)
    config = write_classifier(tmp_path / 'c.py', draw_folders(tmp_path / 'data'))
    found = planned(capsys, config, '--measure', '5')
    assert found['pictures'] == 'the data set' and len(found['step_seconds']) == 5
    assert min(found['loading_seconds']) >= 2 * delay
    assert found['steps'] == 10 * 3 and found['evaluations'] == 10
    assert found['whole'][0] == pytest.approx(10 * (found['epoch'][0] + found['evaluation'][0]))
    assert found['evaluation'][0] >= 6 * delay  # one worker loads all


def test_drawn_pictures(tmp_path, capsys):
    """Where the data is not there: nothing is said of loading, or of how long an epoch is."""
    pytest.importorskip('mmpretrain')
    config = write_classifier(tmp_path / 'c.py')
    found = planned(capsys, config, '--measure', '2', '--gpus', '2')
    assert found['pictures'].startswith('drawn') and found['loading_seconds'] == []
    assert found['waiting'] is found['workers_needed'] is found['whole'] is None
    plan.main([str(config), '--measure', '2', '--size', '64', '64'])
    said = capsys.readouterr().out
    assert 'images/s a process' in said and 'waiting for data' not in said
    with pytest.raises(SystemExit):
        plan.main([str(config), '--measure', '1'])
    assert 'at least 2 steps' in capsys.readouterr().err


def test_without_evaluation(tmp_path, capsys):
    pytest.importorskip('mmpretrain')
    config = write_classifier(tmp_path / 'c.py')
    config.write_text(config.read_text() + 'val_dataloader = val_cfg = None\n')
    found = planned(capsys, config, '--measure', '2')
    assert found['evaluations'] == 0 and found['evaluation'] is None
    plan.main([str(config), '--measure', '2', '--size', '64', '64'])
    assert 'evaluation' not in capsys.readouterr().out.partition('measured on')[2]
