"""The small net with something to evaluate: runs that may end there, and their best checkpoints."""

import math

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator

from support.small_run import LOOPS, Net, Noise, load, train


class Judged(Net):
    """Has something to evaluate: a number that no two steps have alike."""

    def forward(self, inputs, data_samples=None, mode='loss'):
        if mode == 'loss':
            return super().forward(inputs, data_samples, mode)
        weight = self.layers[0].weight.double().sum().item()
        return [math.sin(100 * weight)] * len(inputs)


class Score(BaseMetric):
    """The mean of what the model says; may break off, and counts how often it was asked."""

    def __init__(self, stop=()):
        super().__init__()
        self.asked, self.stop = 0, stop

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        self.asked += 1
        if self.asked in self.stop:
            raise KeyboardInterrupt
        return dict(acc=sum(results) / len(results))


def judged(work_dir, stop=(), loop='iterations', **changes):
    """Train for twelve steps, saved and evaluated after every third; return the metric."""
    torch.manual_seed(0)
    metric = Score(stop)
    by_epoch = loop == 'epochs'
    loader = dict(
        dataset=Noise(), batch_size=4, sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='pseudo_collate'),
    )  # fmt: skip
    hook = dict(
        type='SafeCheckpointHook', interval=1 if by_epoch else 3, by_epoch=by_epoch,
        save_best='acc', rule='greater', max_keep_ckpts=changes.pop('keep', -1),
    )  # fmt: skip
    interval = dict(val_interval=1 if by_epoch else 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LOOPS, loop, {**LOOPS[loop], **interval})
        train(
            work_dir,
            loop,
            model=Judged(),
            seed=1,
            stop=changes.pop('broken', 99),
            val_dataloader=loader,
            val_cfg=dict(),
            val_evaluator=Evaluator(metric),
            hooks=dict(checkpoint=hook, **changes.pop('hooks', {})),
            **changes,
        )
    return metric


def best(work_dir):
    """Name and weights of the best checkpoint, which there must be one of."""
    (path,) = work_dir.glob('best_*.pth')
    return path.name, load(path)['state_dict']


def assert_same_best(work_dir, other):
    """The best checkpoints of two runs are the same."""
    (name, weights), (other_name, others) = best(work_dir), best(other)
    assert name == other_name
    for key, value in weights.items():
        torch.testing.assert_close(value, others[key], atol=1e-6, rtol=1e-6)
