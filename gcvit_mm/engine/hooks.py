"""What watches a training run: losses, batch size, randomness."""

import random
from typing import Any, Dict, Iterator, List, Optional

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..errors import UserError
from .resume import last_name


@HOOKS.register_module()
class StopOnNonFinite(Hook):
    """Stops training at the first loss that is not finite, before anything is saved.

    Only losses count: under float16 the gradient scaler skips steps with infinite gradients,
    which is normal. mmengine reads every loss for its log already, so looking costs nothing more.
    """

    priority = 'ABOVE_NORMAL'

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Optional[Dict[str, Any]] = None,
    ) -> None:
        """Look at the losses of a step.

        Raises:
            UserError: If one is not finite: step, images and the last checkpoint.
        """
        for name, value in (outputs or {}).items():
            value = torch.as_tensor(value).item() if 'loss' in name else 0.0
            if np.isfinite(value):
                continue
            images = ', '.join(image_paths(data_batch)) or 'unknown'
            raise UserError(
                f'step {runner.iter + 1}: {name} is {value}; images: '
                f'{images}; go on from {last_name(runner.work_dir)} after a look at them '
                '(python -m gcvit_mm check-data), or with a lower learning rate, clip_grad, or '
                'bfloat16 or float32 instead of float16'
            )


def image_paths(batch: Any) -> List[str]:
    """Files of the images of a batch, as far as its data samples name them."""
    if isinstance(batch, dict):
        batch = list(batch.values())
    if isinstance(batch, (list, tuple)):
        return [path for item in batch for path in image_paths(item)]
    path = None if isinstance(batch, torch.Tensor) else getattr(batch, 'img_path', None)
    return [str(path)] if path else []


@HOOKS.register_module()
class CheckBatchSize(Hook):
    """Warns once when the learning rate is meant for another number of images a step."""

    def before_train(self, runner: Runner) -> None:
        """Warn at the start of training."""
        advice = batch_size_advice(runner.cfg, get_world_size())
        if advice:
            runner.logger.warning(advice)


def batch_size_advice(cfg: Config, processes: int = 1) -> str:
    """Compare the images of an optimizer step with those its learning rate is meant for.

    Args:
        cfg: The config; ``auto_scale_lr.base_batch_size`` is what the rate is meant for.
        processes: Number of processes (GPUs).

    Returns:
        The linear scaling to apply; empty if none is needed, or nothing is known.
    """
    scaling = cfg.get('auto_scale_lr') or {}
    batch = (cfg.get('train_dataloader') or {}).get('batch_size')
    wrapper = cfg.get('optim_wrapper') or {}
    rate = (wrapper.get('optimizer') or {}).get('lr')
    base = scaling.get('base_batch_size')
    if not (base and batch and rate):
        return ''
    accumulated = wrapper.get('accumulative_counts', 1)
    images = processes * batch * accumulated
    # mmengine's own scaling leaves accumulation out
    meant = base * accumulated if scaling.get('enable') else images
    if meant == base:
        return ''
    fix = rate * meant / base
    return (
        f'{images} images a step ({processes} x {batch} x {accumulated} accumulated), but the '
        f'learning rate {rate:g} is meant for {base}: --cfg-options '
        f'optim_wrapper.optimizer.lr={fix:.3g}'
        + ('' if scaling.get('enable') or accumulated > 1 else ', or --auto-scale-lr')
    )


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
        batches = NumberedBatches(loader.batch_sampler, loop)
        object.__setattr__(loader, 'batch_sampler', batches)  # a loader refuses new ones
        loader.dataset.__getitems__ = SeededItems(loader.dataset, runner.seed, get_rank())
        # Endless samplers can be advanced without loading, whatever makes batches of them.
        iterator: Any = getattr(loop, 'dataloader_iterator', None)
        if hasattr(sampler, 'skip') and hasattr(iterator, 'skip_iter'):
            iterator.skip_iter = batches.skip
        elif iterator is not None and not hasattr(iterator, 'skip_iter'):
            # mmengine < 0.10.12 has begun to load; it also loads what a resumed run passes over.
            if hasattr(sampler, '_indices_of_rank'):
                sampler.indices = sampler._indices_of_rank()
            loader._iterator = None  # persistent workers hold the data set as it was
            iterator._iterator = iter(loader)

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
    """

    def __init__(self, batch_sampler: Any, loop: Any) -> None:
        self.batch_sampler = batch_sampler
        self.loop = loop
        self.number = 0
        self.first = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batch_sampler, name)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[NumberedBatch]:
        if isinstance(self.loop, EpochBasedTrainLoop):
            self.number = self.loop.iter
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
