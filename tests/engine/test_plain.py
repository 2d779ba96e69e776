"""Checkpoints are plain data: torch reads them with ``weights_only=True``, and nothing is lost."""

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from gcvit_mm.engine.plain import histories, plain
from support.small_run import train


def test_torch_reads_checkpoints(tmp_path):
    """Histories of losses come back: what is resumed saves those of both parts."""
    first = train(tmp_path, stop=7, seed=7)
    hub = torch.load(tmp_path / 'iter_6.pth', weights_only=True)['message_hub']
    losses = hub['log_scalars']['train/loss']
    assert losses['values'].tolist() == pytest.approx([first[k] for k in range(1, 7)], abs=1e-6)
    resumed = train(tmp_path, resume=True, seed=7)
    hub = torch.load(tmp_path / 'iter_12.pth', weights_only=True)['message_hub']
    expected = [*(first[k] for k in range(1, 7)), *(resumed[k] for k in range(7, 13))]
    assert hub['log_scalars']['train/loss']['values'].tolist() == pytest.approx(expected, abs=1e-6)


def test_there_and_back():
    """Numbers of numpy become Python's, histories dicts of tensors and histories again."""
    buffer = HistoryBuffer([1.5, 2.5], [1, 3], max_length=7)
    value = dict(score=np.float64(0.5), lines=[np.int64(3), (np.arange(2), 'a')], history=buffer)
    found = plain(value)
    assert found['score'] == 0.5 and type(found['score']) is float
    assert found['lines'] == [3, ([0, 1], 'a')] and type(found['lines'][0]) is int
    scalars = dict(loss=found['history'])
    histories(scalars)
    assert isinstance(scalars['loss'], HistoryBuffer) and scalars['loss'].max_length == 7
    assert scalars['loss'].mean() == buffer.mean() == 1.0


@pytest.mark.parametrize(
    'forged',
    [
        3,
        dict(values=[1.0], counts=[1], max_length=2),
        dict(values=torch.ones(2), counts=torch.ones(3), max_length=2),
        dict(values=torch.ones(2, 2), counts=torch.ones(2, 2), max_length=2),
        dict(values=torch.ones(2), counts=torch.ones(2), max_length='2'),
    ],
)
def test_what_is_no_history_stays(forged):
    """mmengine says of it that it is not resumed."""
    scalars = dict(loss=forged)
    histories(scalars)
    assert scalars['loss'] is forged
