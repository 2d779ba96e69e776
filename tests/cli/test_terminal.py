"""What a run says: on the terminal little, in its log file everything."""

import io
import re
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from gcvit_mm.cli.terminal import ProgressBar, losses
from support.running import CLS, iterations, run
from support.small_run import train


def test_what_is_said(shapes, tmp_path):
    """Five lines before the first loss and few others; at the end the best one and what is next."""
    pytest.importorskip('mmpretrain')
    words = [CLS, '--work-dir', tmp_path, '--data-root', shapes / 'imagenet', '--cfg-options']
    words += [*iterations(2), 'val_dataloader.num_workers=0', 'train_dataloader.batch_size=4']
    output = run('train.py', *words, 'val_dataloader.persistent_workers=False')
    before, _, after = output.partition('Iter(train)')
    said = re.findall(r'INFO - (model|data|schedule|device|results) +(.*)', before)
    assert [name for name, _ in said] == ['model', 'data', 'schedule', 'device', 'results']
    said = dict(said)
    assert re.fullmatch(r'ImageClassifier on GCViT, \d+\.\d\d M parameters', said['model'])
    assert said['data'] == '5 images to train on, 5 to evaluate on, 5 classes'
    assert said['schedule'] == '2 iterations of 4 images'
    assert said['device'].startswith('CPU, ') and said['results'] == str(tmp_path)
    assert len(before.splitlines()) < 15, before
    (path,) = re.findall(r'INFO - best +(\S+)', after)
    assert f'python tools/predict.py {CLS} {path} IMAGES --out-dir drawn' in after.replace(
        f'{tmp_path.cwd()}/', ''
    )
    (log,) = tmp_path.glob('*/*.log')
    for words in ('System environment', 'Config:', 'Hooks will be', 'paramwise_options'):
        assert words in log.read_text() and words not in output


def test_bar(tmp_path):
    """It moves at every step, with the loss; what the log says of training gives way to it."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, height=20)
    losses = train(tmp_path, hooks=dict(bar=ProgressBar(console)))
    drawn = file.getvalue()
    assert '12/12' in drawn and f'loss {losses[12]:.3g}' in drawn
    assert 'images/s' in drawn and 'Iter(train)' not in drawn
    assert '\x1b[?25h' in drawn  # the cursor is back


@pytest.mark.parametrize('batch', [None, (1, 2), dict(image=[1])])
def test_bar_of_other_steps(batch):
    """Batches and results of another kind than mmengine's are no reason to end a training."""
    assert losses(None) == losses([torch.ones(())]) == []
    outputs = dict(loss=torch.ones((), requires_grad=True), maps=torch.zeros(2, 2), name='x')
    assert [key for key, _ in losses(outputs)] == ['loss']
    runner = SimpleNamespace(world_size=2, iter=0)
    ProgressBar().after_train_iter(runner, 0, batch, outputs)
