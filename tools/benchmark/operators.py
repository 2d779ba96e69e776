"""Time operators on a CPU beside mmcv's: operator, size, time over mmcv's.

Runs are interleaved and the fastest of each counts, so that another program on the machine disturbs
both alike. 'mmcv' is its compiled operator, or what runs in its place on a CPU where it has none.
"""

import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from .runs import OBJECTS, make_run, read_config
from .suites import Setting

ROOT = Path(__file__).resolve().parents[2]


class Row(NamedTuple):
    """A measurement.

    Args:
        operator: What was measured.
        size: Of its input.
        ours: Seconds of ours.
        theirs: Seconds of mmcv's; None where it is not compiled.
        reference: Whose that is.
    """

    operator: str
    size: str
    ours: float
    theirs: Optional[float]
    reference: str


Case = Callable[[], Any]


def switched(module: str, extension: Any, run: Case) -> Case:
    """A run on an extension; of all operators, where no module is named."""

    def case() -> None:
        owners = [
            owner
            for name, owner in sys.modules.items()
            if name.startswith(f'mmcv.ops.{module}') and hasattr(owner, 'ext_module')
        ]
        before = [owner.ext_module for owner in owners]
        for owner in owners:
            owner.ext_module = extension
        try:
            run()
        finally:
            for owner, own in zip(owners, before):
                owner.ext_module = own

    return case


def trained(function: Callable[..., Tensor], *leaves: Tensor) -> Case:
    """Forward and backward of a function."""
    leaves = tuple(leaf.requires_grad_() for leaf in leaves)

    def run() -> None:
        y = function(*leaves)
        torch.autograd.grad(y, leaves, torch.ones_like(y))

    return run


def boxes(count: int, height: int, width: int) -> Tensor:
    """Boxes (N, 4) of 10 to 310 pixels on an image."""
    centre = torch.rand(count, 2) * torch.tensor([width, height])
    half = (torch.rand(count, 2) * 300 + 10) / 2
    return torch.cat([centre - half, centre + half], 1)


def on_extension(compiled: Any) -> Iterator[List[Any]]:
    """Operators that are compiled for CPUs: operator, size, module, run."""
    import mmcv.ops as ops

    x = torch.randn(4, 256, 60, 80)
    rois = torch.cat([torch.randint(0, 4, (1500, 1)).float(), boxes(1500, 960, 1280)], 1)
    align = trained(lambda x: ops.roi_align(x, rois, 7, 1 / 16, 0, 'avg', True), x)
    yield ['roi_align', '4x256x60x80, 1500 boxes, 7x7, forward + backward', 'roi_align', align]
    proposals, scores = boxes(8819, 800, 1333), torch.rand(8819)
    yield ['nms', '8819 boxes', 'nms', lambda: ops.nms(proposals, scores, 0.7)]
    few = (proposals[:1000], scores[:1000])
    yield ['soft_nms', '1000 boxes', 'nms', lambda: ops.soft_nms(*few)]
    dets = torch.cat([few[0], few[1][:, None]], 1)
    yield ['nms_match', '1000 boxes', 'nms', lambda: ops.nms_match(dets, 0.5)]
    overlaps = (proposals[:2000], proposals[:200])
    yield ['bbox_overlaps', '2000 x 200', 'bbox', lambda: ops.bbox_overlaps(*overlaps)]
    x, offset, mask = (
        torch.randn(2, 128, 25, 42),
        torch.randn(2, 18, 25, 42),
        torch.rand(2, 9, 25, 42),
    )
    weight = torch.randn(128, 128, 3, 3)
    deform = trained(
        lambda x, offset, weight: ops.deform_conv2d(x, offset, weight, 1, 1), x, offset, weight
    )
    yield ['deform_conv2d', '2x128x25x42, forward + backward', 'deform_conv', deform]

    def modulated(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        return ops.modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1)

    run = trained(modulated, x, offset, mask, weight)
    size = '2x128x25x42, forward + backward'
    yield ['modulated_deform_conv2d', size, 'modulated_deform_conv', run]


def on_torch() -> Iterator[List[Any]]:
    """Operators that mmcv compiles for GPUs alone: operator, size, ours, another's, whose."""
    import mmcv.ops as ops

    from gcvit_mm.ops import standin

    logits, target = torch.randn(200700, 80), torch.randint(0, 81, (200700,))
    ours = trained(lambda x: ops.sigmoid_focal_loss(x, target, 2.0, 0.25, None, 'sum'), logits)
    theirs = None
    try:
        from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss

        hot = torch.nn.functional.one_hot(target, 81)[:, :80]
        theirs = trained(lambda x: py_sigmoid_focal_loss(x, hot, reduction='sum'), logits)
    except ImportError:
        pass
    yield ['sigmoid_focal_loss', '200700 x 80, forward + backward', ours, theirs, "mmdet's own"]

    attention = sys.modules[standin.ATTENTION]
    sizes = torch.tensor([(100, 167), (50, 84), (25, 42), (13, 21)])
    total = int(sizes.prod(1).sum())
    for queries in (total, 900):
        # near a pixel, as an encoder asks; a head and point has its own way from there
        centre = torch.rand(1, queries, 1, 1, 1, 2)
        points = centre + torch.randn(1, queries, 8, 4, 4, 2) * 4 / sizes.flip(1)[:, None]
        given = (torch.randn(1, total, 8, 32), points, torch.rand(1, queries, 8, 4, 4))
        runs = []
        for name in ('multi_scale_deformable_attn_pytorch', standin.KEPT):
            form = getattr(attention, name)
            runs.append(trained(lambda v, p, w, form=form: form(v, sizes, p, w), *given))
        size = f'{queries} queries of 800x1333, forward + backward'
        yield ['deformable attention', size, *runs, "mmcv's plain torch"]


# Whole models that are timed: config and mode; images, height, width.
WHOLE = {
    ('mask_gcvit_xxt_shapes', 'training'): (4, 160, 160),
    ('mask_gcvit_t_1x', 'training'): (2, 480, 640),
    ('mask_gcvit_t_1x', 'forward'): (1, 800, 1280),
}


def whole(name: str, mode: str, batch: int, size: Tuple[int, int]) -> Case:
    """A training step or an evaluation of a detector, as the tools run it, on drawn images."""
    cfg = read_config(str(ROOT / f'configs/{name}.py'), None, None)
    found = make_run(cfg, mode, [size], batch, Setting())

    def run() -> None:
        torch.manual_seed(0)  # the same boxes are drawn
        found.step()

    return run


def fastest(runs: Dict[str, Optional[Case]], repeats: int) -> Dict[str, float]:
    """Seconds of the fastest of interleaved runs, after one that does not count."""
    times: Dict[str, List[float]] = {}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            if run is not None:
                start = time.perf_counter()
                run()
                times.setdefault(name, []).append(time.perf_counter() - start)
    return {name: min(found[1:]) for name, found in times.items()}


def measure_ops(repeats: int = 5, only: str = '') -> Iterator[Row]:
    """Measure.

    Args:
        repeats: Runs of each.
        only: A part of the names of operators to measure.

    Yields:
        One row after the other.
    """
    import mmcv.ops  # noqa: F401

    import gcvit_mm  # noqa: F401
    from gcvit_mm.ops import Extension, standin

    torch.manual_seed(0)
    compiled = sys.modules[standin.MODULE]._compiled
    ours = Extension(None, 'torch')
    for operator, size, module, run in on_extension(compiled):
        if only in operator:
            runs: Dict[str, Optional[Case]] = dict(ours=switched(module, ours, run), theirs=None)
            if compiled is not None:
                runs['theirs'] = switched(module, Extension(compiled, 'compiled'), run)
            found = fastest(runs, repeats)
            yield Row(operator, size, found['ours'], found.get('theirs'), "mmcv's compiled")
    for (config, mode), (batch, height, width) in WHOLE.items():
        title = f'{"step" if mode == "training" else "evaluation"} of {config}'
        if compiled is not None and only in title:
            run = whole(config, mode, batch, (height, width))
            extensions = dict(ours=ours, theirs=Extension(compiled, 'compiled'))
            found = fastest({k: switched('', e, run) for k, e in extensions.items()}, repeats)
            said = f'{batch}x3x{height}x{width}, {OBJECTS} objects each'
            yield Row(title, said, found['ours'], found['theirs'], "mmcv's compiled")
    for operator, size, mine, theirs, name in on_torch():
        if only in operator:
            found = fastest(dict(ours=mine, theirs=theirs), repeats)
            yield Row(operator, size, found['ours'], found.get('theirs'), name)
