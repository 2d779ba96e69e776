"""tools/benchmark.py --overhead: what checks and hooks cost."""

import json
import time

import pytest
from benchmark import command, overhead

from gcvit_mm import UserError
from gcvit_mm.datacheck.pipeline import CheckedPipeline
from gcvit_mm.engine import StopOnNonFinite
from support.classifier import draw_folders, write_classifier

pytest.importorskip('mmpretrain')


@pytest.fixture
def config(tmp_path):
    path = write_classifier(tmp_path / 'c.py', draw_folders(tmp_path / 'data'))
    hooks = "_base_ = '{}/configs/_base_/runtime/cls.py'\n"
    path.write_text(hooks.format(command.__file__.rsplit('/tools/', 1)[0]) + path.read_text())
    return path


def rows(tmp_path, config):
    found = tmp_path / 'found.json'
    words = ['--overhead', str(config), '--rounds', '3', '--warmups', '1', '--json', str(found)]
    try:
        command.main(words)
    except SystemExit as end:  # a bar that is missed, on a machine that does other things too
        assert end.code == 1
    return {row['name']: row for row in json.loads(found.read_text())['overhead']}


def test_a_slow_check_shows(tmp_path, config, monkeypatch):
    """Ten milliseconds of a hook and of a pipeline are in the figures of ours, and in no other."""
    delay = 0.05
    after, compare = StopOnNonFinite.after_train_iter, CheckedPipeline.compare

    def slowly(self, *args, **options):
        time.sleep(delay)
        return after(self, *args, **options)

    def compare_slowly(self, *args, **options):
        time.sleep(delay)
        return compare(self, *args, **options)

    monkeypatch.setattr(StopOnNonFinite, 'after_train_iter', slowly)
    monkeypatch.setattr(CheckedPipeline, 'compare', compare_slowly)
    found = rows(tmp_path, config)
    assert set(found) == {'data pipeline', 'training step'}
    for row, pictures in ((found['data pipeline'], 1), (found['training step'], 2)):
        assert pictures / row['ours'] - pictures / row['plain'] > delay / 2
        assert row['ratio'] == pytest.approx(row['plain'] / row['ours']) and not row['passed']


def test_plain_means_mmengines_hooks(config):
    from gcvit_mm import cli

    cfg = cli.load_config(str(config))
    plain = overhead.plain_config(cfg)
    assert {'non_finite', 'seeds', 'stop'} <= set(cfg.default_hooks)
    assert not {'non_finite', 'seeds', 'stop'} & set(plain.default_hooks)
    assert plain.default_hooks.checkpoint.type == 'CheckpointHook'


def test_what_does_not_go_with_it(config):
    for words in (['--plot', 'a.png'], ['--dtype', 'bf16'], ['--table', 'gcvit2']):
        with pytest.raises(UserError, match='--overhead'):
            command.main(['--overhead', str(config), *words])
