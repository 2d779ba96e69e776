"""Building all that a run needs, and running nothing: what is wrong shows before it starts."""

import contextlib
import copy
import io
import os
import tempfile
from typing import Any, Iterator, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn

from ..engine.monitoring import check_pooled
from ..errors import UserError
from ..messages import one_line
from .guards import guard
from .terminal import described

# Heads of the three libraries, and what those have that take maps and nothing else.
HEADS = dict(
    rpn_head='prior_generator',
    bbox_head='prior_generator',
    decode_head='_transform_inputs',
    auxiliary_head='_transform_inputs',
    head='pre_logits',
)


class Rehearsal(Runner):
    """mmengine's runner with a model that has no weights and goes to no device."""

    def build_model(self, model: Any) -> nn.Module:
        """Build a model on the meta device."""
        with torch.device('meta'):
            return super().build_model(model)

    def wrap_model(self, model_wrapper_cfg: Optional[dict], model: nn.Module) -> nn.Module:
        """Leave a model as it is."""
        return model


def rehearse(cfg: Config, training: bool = False) -> str:
    """Build model, data loaders and metrics of a run, and to train optimizer and schedule.

    Nothing is downloaded, and nothing written into its work dir.

    Args:
        cfg: The config, after :func:`prepare`.
        training: Whether it is to train, and not to test.

    Returns:
        One line: parameters, classes, images, iterations, where results go.

    Raises:
        UserError: If a part does not fit; so does whatever a part raises that cannot be built.
    """
    rehearsed = copy.deepcopy(cfg)
    for key in ('runner_type', 'strategy'):  # they divide a model for its training
        rehearsed.pop(key, None)
    if isinstance(rehearsed.get('visualizer'), dict):
        rehearsed.visualizer.vis_backends = None  # some begin a run on a server
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        rehearsed.merge_from_dict(
            dict(work_dir=folder, launcher='none', load_from=None, resume=False, log_level='ERROR')
        )
        runner = Rehearsal.from_cfg(rehearsed)
        guard(runner)
        rehearse_maps(runner.model)
        if training:
            rehearse_training(runner)
        lines = described(runner, training)
    if training:
        lines['schedule'] += ' a process'
    return f'ready: {"; ".join(lines.values())}; results go to {cfg.work_dir}'


def rehearse_maps(model: Any) -> None:
    """Let maps without values go through neck and heads, as far as those look at shapes alone.

    Raises:
        UserError: If one does not take the channels that the part before it gives.
    """
    model.eval()
    part, maps = 'backbone', None
    try:
        with torch.no_grad():
            image = torch.empty(2, getattr(model.backbone, 'in_channels', 3), 224, 224)
            maps = model.backbone(image.to('meta'))
            for part, module in list(parts_behind(model)):
                given = module(maps)
                maps = given if part == 'model.neck' else maps
            width = maps[0].shape[1]
            for name, module, size in roi_parts(model):
                part = name
                maps = [image.new_empty(2, width, *size, device='meta')]
                module(*maps)
    except (AssertionError, RuntimeError, ValueError) as error:
        if maps is None or 'meta' in str(error).lower():  # of other sizes only, or asks for values
            return
        widths = [each.shape[1] for each in maps if isinstance(each, torch.Tensor)]
        raise UserError(
            f'{part} does not take maps of {widths} channels ({one_line(error)}): correct its '
            'in_channels'
        ) from error
    except Exception:  # a part that is called in another way
        return


def parts_behind(model: Any) -> Iterator[Tuple[str, nn.Module]]:
    """Neck and heads of a model that take all maps and nothing else, and their names."""
    neck = getattr(model, 'neck', None)
    if neck is not None:
        yield 'model.neck', neck
    for name, sign in HEADS.items():
        heads = getattr(model, name, None)
        for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
            if head is not None and hasattr(head, sign):
                yield f'model.{name}', head


def roi_parts(model: Any) -> Iterator[Tuple[str, nn.Module, Tuple[int, int]]]:
    """Heads of regions, their names, and the size (H, W) of what is cut out for them."""
    roi_head = getattr(model, 'roi_head', None)
    for kind in ('bbox', 'mask'):
        found = (getattr(roi_head, f'{kind}_{part}', None) for part in ('roi_extractor', 'head'))
        pairs = [each if isinstance(each, nn.ModuleList) else [each] for each in found]
        for extractor, head in zip(*pairs):
            if extractor is not None and head is not None:
                yield f'model.roi_head.{kind}_head', head, extractor.roi_layers[0].output_size


def rehearse_training(runner: Runner) -> None:
    """Build what only training needs; schedules ask how long the loop is."""
    assert runner.train_loop is not None
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    if not isinstance(wrapper, OptimWrapper):  # DeepSpeed's, to which this runner has no schedule
        wrapper = OptimWrapper(wrapper.optimizer)
    runner.optim_wrapper = wrapper
    check_pooled(runner.cfg, runner.model, int(os.environ.get('LOCAL_WORLD_SIZE', 1)))
    if runner.param_schedulers is not None:
        runner.build_param_scheduler(runner.param_schedulers)
