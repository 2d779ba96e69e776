"""Randomness that depends on the step alone."""

import random
from typing import Any, Iterator, List

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..compat import begin_anew

# Entry of a checkpoint's message hub: batches of its epoch that are done.
PASSED = 'batches_passed'


@HOOKS.register_module()
class SeedEveryStep(Hook):
    """Makes every step a function of the run's seed, its rank and the step.

    Before a step the generators of Python, numpy and torch are seeded for what the model draws,
    and before a batch is loaded for what the augmentations draw, in workers too. So a resumed run
    sees the images, augmentations and dropped paths that it would have seen without a break, with
    any number of workers, and nothing has to be saved but the seed, which mmengine saves. Ranks
    draw different numbers.
    """

    priority = 'HIGH'

    def before_train(self, runner: Runner) -> None:
        """Number the batches, and seed the data set by that number."""
        loop, loader = runner.train_loop, runner.train_dataloader
        sampler: Any = getattr(loader.batch_sampler, 'sampler', None)
        if loader.batch_sampler is None or isinstance(
            loader.dataset, torch.utils.data.IterableDataset
        ):
            return
        # Built before the seed was read from the checkpoint.
        given = runner.cfg.get('train_dataloader', {}).get('sampler') or {}
        own = given.get('seed') is not None or runner._randomness_cfg.get('diff_rank_seed')
        if hasattr(sampler, 'seed') and not own:
            sampler.seed = runner.seed
        passed = runner.message_hub.runtime_info.pop(PASSED, 0)
        batches = NumberedBatches(loader.batch_sampler, loop, passed)
        object.__setattr__(loader, 'batch_sampler', batches)  # a loader refuses new ones
        loader.dataset.__getitems__ = SeededItems(loader.dataset, runner.seed, get_rank())
        # Endless samplers can be advanced without loading, whatever makes batches of them.
        iterator: Any = getattr(loop, 'dataloader_iterator', None)
        if hasattr(sampler, 'skip') and hasattr(iterator, 'skip_iter'):
            iterator.skip_iter = batches.skip
        elif iterator is not None and not hasattr(iterator, 'skip_iter'):
            begin_anew(loader, sampler, iterator)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed what the model draws in this step."""
        seed_all(runner.seed, get_rank(), runner.iter, 1)


class NumberedBatch(list):
    """Indices of a batch, and the ``number`` of the step that it is for."""

    number: int


class NumberedBatches:
    """Batches of another batch sampler, numbered by the step they are for.

    Args:
        batch_sampler: The other one; everything else is asked of it.
        loop: The training loop.
        passed: Batches of the first epoch that an earlier run has trained with.
    """

    def __init__(self, batch_sampler: Any, loop: Any, passed: Any = 0) -> None:
        self.batch_sampler = batch_sampler
        self.loop = loop
        self.number = 0
        self.first = 0
        self.start = 0  # number of the first batch of an epoch
        fine = isinstance(passed, int) and 0 < passed < len(batch_sampler)
        self.passed = passed if fine and isinstance(loop, EpochBasedTrainLoop) else 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batch_sampler, name)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[NumberedBatch]:
        if isinstance(self.loop, EpochBasedTrainLoop):
            self.first = self.loop.iter
            self.number = self.start = self.loop.iter - self.passed
            self.passed = 0
        for indices in self.batch_sampler:
            batch = NumberedBatch(indices)
            batch.number = self.number
            self.number += 1
            if batch.number >= self.first:
                yield batch

    def skip(self, count: int) -> None:
        """Pass over the first batches; to be called before the first is asked for."""
        self.first = count


class SeededItems:
    """Loads the items of a batch, seeded by its number; torch's loaders call it if it is there.

    Args:
        dataset: Where from.
        seed: Seed of the run.
        rank: Rank of the process.
    """

    def __init__(self, dataset: Any, seed: int, rank: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.rank = rank

    def __call__(self, indices: List[int]) -> list:
        number = getattr(indices, 'number', None)
        if number is not None:
            seed_all(self.seed, self.rank, number, 0)
        return [self.dataset[index] for index in indices]


def seed_all(*numbers: int) -> None:
    """Seed the generators of Python, numpy and torch by a mixture of some numbers."""
    words = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))
