"""Tests of tools/plot_log.py."""

import json

import numpy as np
import plot_log
import pytest
from PIL import Image

from gcvit_mm.cli import run_tool


def train_row(step, loss, **more):
    """Return a training row as mmengine writes it."""
    return {'lr': 0.01, 'loss': loss, 'loss_cls': loss * 0.6, 'time': 0.1, 'step': step, **more}


def val_row(step, value):
    return {'coco/bbox_mAP': value, 'coco/bbox_mAP_s': -1.0, 'time': 0.1, 'step': step}


def write_log(work_dir, stamp, rows, tail=''):
    folder = work_dir / stamp / 'vis_data'
    folder.mkdir(parents=True)
    text = ''.join(json.dumps(row) + '\n' for row in rows)
    (folder / 'scalars.json').write_text(text + tail)


def values(rows, key):
    return {step: row[key] for step, row in rows.items()}


def test_resumed_runs_are_joined(tmp_path):
    first = [train_row(10, 1.0), train_row(20, 1.0), val_row(20, 0.1), train_row(30, 1.0)]
    first += [train_row(40, 1.0), val_row(40, 0.15)]
    second = [train_row(30, 2.0), train_row(40, 2.0), val_row(40, 0.2)]
    # written in the wrong order: the names of the folders tell the order
    write_log(tmp_path, '20260102_000000', second)
    write_log(tmp_path, '20260101_000000', first)
    train, val = plot_log.load_rows(tmp_path)
    assert values(train, 'loss') == {10: 1.0, 20: 1.0, 30: 2.0, 40: 2.0}
    assert values(val, 'coco/bbox_mAP') == {20: 0.1, 40: 0.2}


def test_given_up_branch_does_not_come_back(tmp_path):
    write_log(tmp_path, '20260101_000000', [train_row(step, 1.0) for step in (10, 20, 30, 40)])
    write_log(tmp_path, '20260102_000000', [train_row(20, 2.0)])
    write_log(tmp_path, '20260103_000000', [val_row(0, 0.9)])  # validation alone
    assert values(plot_log.load_rows(tmp_path)[0], 'loss') == {10: 1.0, 20: 2.0}


def test_validation_between_two_logged_losses(tmp_path):
    """An iteration that is known counts, also where its loss was not logged."""
    write_log(tmp_path, '20260101_000000', [train_row(90, 1.0), val_row(96, 0.1)])
    assert list(plot_log.load_rows(tmp_path)[1]) == [96]


@pytest.mark.parametrize('steps', [(50, 100), (1, 2), (0, 0)])
def test_validation_in_iterations_or_epochs(tmp_path, steps):
    rows = [train_row(50, 1.0), val_row(steps[0], 0.1)]
    rows += [train_row(100, 1.0), val_row(steps[1], 0.2)]
    write_log(tmp_path, '20260101_000000', rows, tail='{"lr": 0.1, "lo')
    val = plot_log.load_rows(tmp_path)[1]
    assert values(val, 'coco/bbox_mAP') == {50: 0.1, 100: 0.2}


def test_metrics_in_percent():
    rows = {10: {**val_row(0, 0.25), 'mIoU': 0.5, 'accuracy/top1': 70.0}}
    metrics = plot_log.metric_curves(rows)
    last = {key: curve[1, -1] for key, curve in metrics.items()}
    assert last == {'bbox_mAP': 25.0, 'mIoU': 0.5, 'top1': 70.0}


def test_largest_losses_and_no_nan():
    parts = {f'd{number}.loss_cls': float(number) for number in range(20)}
    rows = {10: train_row(10, 190.0, **parts), 20: {'loss': float('nan')}}
    losses = plot_log.loss_curves(rows)
    assert list(losses)[:2] == ['loss', 'loss_cls']
    assert len(losses) == plot_log.MAX_LINES
    np.testing.assert_array_equal(losses['loss'], [[10], [190]])


@pytest.mark.parametrize('count', [1, 2, 400])
def test_smooth(count):
    noise = np.random.default_rng(0).normal(size=count)
    smoothed = plot_log.smooth(noise)
    assert smoothed.shape == noise.shape
    assert smoothed.std() <= noise.std() * (0.4 if count == 400 else 1)


def test_figure_shows_the_last_values(tmp_path):
    rows = [train_row(step, 100 / step) for step in range(10, 510, 10)] + [val_row(504, 0.25)]
    write_log(tmp_path, '20260101_000000', rows)
    losses, metrics = plot_log.draw(*plot_log.load_rows(tmp_path), 'run').axes
    assert [text.get_text() for text in metrics.texts] == ['bbox_mAP  25.0 %']
    assert metrics.get_xlim() == (0, 504)  # else the last point and its label are cut off
    assert losses.texts[1].get_text().startswith('loss  0.2')
    heights = [text.get_position()[1] for text in losses.texts]
    assert np.diff(heights).min() >= plot_log.LABEL_GAP - 1e-9


@pytest.mark.parametrize('out', [None, 'new/own.png'])
def test_writes_a_image(tmp_path, out):
    write_log(tmp_path, '20260101_000000', [train_row(10, 1.0)])  # nothing validated yet
    plot_log.main([str(tmp_path), *(['--out', str(tmp_path / out)] if out else [])])
    with Image.open(tmp_path / (out or 'curves.png')) as image:
        assert min(image.size) > 500


@pytest.mark.parametrize('case', ['no logs', 'no losses', 'bad suffix'])
def test_errors_are_one_line(tmp_path, case, capsys):
    if case != 'no logs':
        row = {'step': 1, 'memory': 2} if case == 'no losses' else train_row(10, 1.0)
        write_log(tmp_path, '20260101_000000', [row])
    with pytest.raises(SystemExit) as stop:
        run_tool(lambda: plot_log.main([str(tmp_path), '--out', str(tmp_path / 'curves.docx')]))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1
