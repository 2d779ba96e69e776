"""How much memory a run needs, predicted by running one step of it without memory."""

import copy
from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple

import torch
from mmengine.config import Config
from torch import nn

from ..channels_last import go_channels_last
from .batch import Size, make_batch
from .complexity import build_on_meta
from .pictures import largest_of, read_data
from .shadow import Shadow
from .step import build_wrapper, caused, follow_parts, give_memory, prime, test_step, train_step
from .tracking import Moment, Tracker

DTYPES = {'bfloat16': torch.bfloat16, 'float16': torch.float16}


class Load(NamedTuple):
    """What one process is given.

    Attributes:
        train: Size of the largest picture that is trained on.
        test: That of the largest that is tested.
        batch: Pictures of a step.
        test_batch: Pictures of a batch of an evaluation.
        objects: Most objects in a picture; 0 of what is no detector.
        pictures: Pictures of an epoch; 0 where that is not known.
        source: Where objects and sizes are from.
    """

    train: Size
    test: Size
    batch: int
    test_batch: int
    objects: int
    pictures: int
    source: str


class Prediction(NamedTuple):
    """Memory of one process.

    Attributes:
        train: The moment of a step that needs most.
        test: That of an evaluation.
        moments: Moments of the step, for a plot.
        flops: Floating point operations of a step, as torch's ``FlopCounterMode`` counts.
        tested_flops: Those of a batch of an evaluation.
    """

    train: Moment
    test: Moment
    moments: Sequence[Moment]
    flops: int
    tested_flops: int

    @property
    def peak(self) -> int:
        """Bytes that are needed in all."""
        return max(self.train.bytes, self.tested)

    @property
    def tested(self) -> int:
        """Bytes that evaluations between epochs need, which keep what training keeps."""
        kept = sum(size for (_, cause), size in self.train.owners.items() if cause in KEPT_IN_TESTS)
        return self.test.bytes + kept


KEPT_IN_TESTS = ('optimizer state', 'EMA', 'DDP buckets')


def find_load(
    cfg: Config,
    size: Optional[Size] = None,
    objects: Optional[int] = None,
) -> Load:
    """What a config gives to a process at most.

    Args:
        cfg: A config.
        size: Height and width of pictures, in the place of what the pipelines say.
        objects: Objects in a picture, in the place of what the annotations say.

    Raises:
        UserError: If the size of pictures cannot be told.
    """
    loader, tested = cfg.train_dataloader, cfg.get('val_dataloader') or cfg.train_dataloader
    data, test_data = read_data(loader.dataset), read_data(tested.dataset)
    return Load(
        size or largest_of(loader.dataset, data),
        size or largest_of(tested.dataset, test_data),
        loader.batch_size,
        tested.get('batch_size', 1),
        (data.objects if objects is None else objects) * (cfg.get('default_scope') == 'mmdet'),
        data.pictures,
        data.source,
    )


def build(cfg: Config, gpu: bool = True) -> nn.Module:
    """Build the model of a config on the meta device, for one process, on a GPU or a CPU."""
    cfg = copy.deepcopy(cfg)
    if cfg.get('data_preprocessor'):  # as mmengine's runner
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = build_on_meta(cfg)
    if not gpu:
        go_channels_last(model)
    return model


def has_masks(cfg: Config) -> bool:
    """Whether a detector learns masks."""
    return bool((cfg.model.get('roi_head') or {}).get('mask_head'))


def dtype_of(cfg: Config) -> Optional[torch.dtype]:
    """Type of the mixed precision of a config; None without."""
    if cfg.optim_wrapper.get('type') != 'AmpOptimWrapper':
        return None
    return DTYPES.get(str(cfg.optim_wrapper.get('dtype', 'float16')), torch.float16)


def predict(
    cfg: Config, load: Load, gpu: bool = True, processes: int = 1, every: int = 0
) -> Prediction:
    """Predict the memory of a run.

    Args:
        cfg: A config; what it says of type, batch and ``with_cp`` counts.
        load: What a process is given.
        gpu: Run what a GPU would run; else what this package runs on a CPU.
        processes: Processes that train together.
        every: As :class:`gcvit_mm.planning.tracking.Tracker` has it.
    """
    trained, moments, flops = predict_training(cfg, load, gpu, processes, every)
    tested, tested_flops = predict_test(cfg, load, gpu)
    return Prediction(trained, tested, moments, flops, tested_flops)


def predict_training(
    cfg: Config, load: Load, gpu: bool = True, processes: int = 1, every: int = 0
) -> Tuple[Moment, Sequence[Moment], int]:
    """The moment of a step that needs most memory, its moments, and its operations."""
    model, tracker = build(cfg, gpu), Tracker(gpu, every)
    with Shadow(tracker.seen, gpu):
        batch = drawn(cfg, load.train, load.batch, load.objects)
        give_memory(model, 'cpu')
        follow_parts(model, tracker)
        extra = beside_model(cfg, model, processes)
        for (part, cause), size in extra.items():
            tracker.change((part, cause), size)
        model.train()
        wrapper = build_wrapper(cfg.optim_wrapper, model)
        with caused(tracker, 'optimizer state'):
            prime(wrapper, model, cfg.optim_wrapper.get('accumulative_counts', 1) > 1)
        tracker.flops = 0
        train_step(model, wrapper, batch, dtype_of(cfg), tracker)
        return tracker.peak, tracker.moments, tracker.flops


def beside_model(cfg: Config, model: nn.Module, processes: int) -> Dict[Tuple[str, str], int]:
    """Bytes that are kept beside a model: an averaged one, buckets of gradients of DDP."""
    tensors = (*model.parameters(), *model.buffers())
    found: Dict[Tuple[str, str], int] = {}
    if any(hook.get('type') == 'EMAHook' for hook in cfg.get('custom_hooks') or ()):
        found['model', 'EMA'] = sum(x.numel() * x.element_size() for x in tensors)
    if processes > 1:
        found['model', 'DDP buckets'] = sum(
            x.numel() * x.element_size() for x in model.parameters() if x.requires_grad
        )
    return found


def predict_test(cfg: Config, load: Load, gpu: bool = True) -> Tuple[Moment, int]:
    """The moment of an evaluation that needs most memory, and its operations."""
    model, tracker = build(cfg, gpu), Tracker(gpu)
    with Shadow(tracker.seen, gpu):
        batch = drawn(cfg, load.test, load.test_batch, load.objects)
        give_memory(model, 'cpu')
        follow_parts(model, tracker)
        model.eval()
        test_step(model, batch, tracker)
        return tracker.peak, tracker.flops


def drawn(cfg: Config, size: Size, count: int, objects: int) -> Dict[str, Any]:
    """A batch of a config."""
    return make_batch(cfg.default_scope, size, count, objects, 2, has_masks(cfg))
