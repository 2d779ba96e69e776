"""tools/benchmark.py --overhead: what checks and hooks cost."""

import json

import pytest
from benchmark import command, measure, overhead
from mmcv.transforms import LoadImageFromFile

from gcvit_mm import UserError
from gcvit_mm.datacheck.pipeline import CheckedPipeline
from gcvit_mm.engine import StopOnNonFinite
from support.classifier import draw_folders, write_classifier
from support.ticks import Ticks

pytest.importorskip('mmpretrain')
from mmpretrain.models import ImageClassifier


@pytest.fixture
def config(tmp_path):
    path = write_classifier(tmp_path / 'c.py', draw_folders(tmp_path / 'data'))
    hooks = "_base_ = '{}/configs/_base_/runtime/cls.py'\n"
    path.write_text(hooks.format(command.__file__.rsplit('/tools/', 1)[0]) + path.read_text())
    return path


class Clock(Ticks):
    """Ticks in the place of the time of a module."""

    perf_counter = Ticks.__call__


def costly(monkeypatch, owner, name, ticks, price):
    """Let a method cost ticks."""
    method = getattr(owner, name)

    def priced(*args, **options):
        ticks.value += price
        return method(*args, **options)

    monkeypatch.setattr(owner, name, priced)


@pytest.mark.parametrize('price', [10, 40])
def test_what_checks_cost(tmp_path, config, monkeypatch, price):
    """In ticks: 1000 for a picture that is read and for a step of two, the price for a check."""
    ticks = Clock()
    monkeypatch.setattr(overhead, 'time', ticks)
    monkeypatch.setattr(measure, 'time', ticks)
    costly(monkeypatch, LoadImageFromFile, 'transform', ticks, 1000)
    costly(monkeypatch, ImageClassifier, 'loss', ticks, 1000)
    costly(monkeypatch, CheckedPipeline, 'compare', ticks, price)
    costly(monkeypatch, StopOnNonFinite, 'after_train_iter', ticks, price)
    out = tmp_path / 'found.json'
    words = ['--overhead', str(config), '--rounds', '3', '--warmups', '1', '--json', str(out)]
    if price > 20:
        with pytest.raises(SystemExit):
            command.main(words)
    else:
        command.main(words)
    found = json.loads(out.read_text())['overhead']
    assert [row['name'] for row in found] == ['data pipeline', 'training step']
    for row, pictures in zip(found, (1, 2)):
        assert row['plain'] == pytest.approx(pictures / 1000)
        assert row['ours'] == pytest.approx(pictures / (1000 + price))
        assert row['ratio'] == pytest.approx(1 + price / 1000)
        assert row['passed'] is (price <= 20)


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
