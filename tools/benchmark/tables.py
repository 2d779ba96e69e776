"""The papers' tables of speed: whole classifiers at their sizes and batches."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any, Iterator, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from gcvit_mm import UserError, cli
from gcvit_mm.planning.complexity import count_parameters

from . import measure as benchmark
from .suites import Setting

ROOT = Path(__file__).resolve().parents[2]
OUT_OF_MEMORY = ('out of memory', "can't allocate memory", 'not enough memory', 'ALLOC_FAILED')


class Entry(NamedTuple):
    """A row of a paper's table."""

    name: str
    config: str  # of configs/, or of mmpretrain behind '::'
    paper: tuple  # what the paper prints for each size
    options: dict = {}


class Table(NamedTuple):
    """A table of a paper; none of them names the precision."""

    title: str
    source: str  # how the paper measured
    unit: str  # of its figures
    batch: int
    sizes: tuple
    entries: list[Entry]


def _plain(dims: int, patch: int, *paper: Any) -> Entry:
    """A plain ViT of GPViT's Table 10."""
    options = {
        'model.backbone.arch': f'D{dims}',
        'model.backbone.patch_size': patch,
        'model.head.in_channels': dims,
    }
    return Entry(f'ViT-D{dims}-P{patch}', 'configs/cls_gpvit_l3_300e.py', paper, options)


IMAGENET, COCO, ADE20K = (224, 224), (800, 1280), (512, 2048)
OOM = 'OOM'
TABLES = {
    'gcvit2': Table(
        'GC ViT (v1), Table 2',
        'V100, batch 192',
        'images/s',
        192,
        (IMAGENET,),
        [
            Entry('GC ViT-XXT', 'configs/cls_gcvit_xxt_300e.py', (854,)),
            Entry('GC ViT-XT', 'configs/cls_gcvit_xt_300e.py', (778,)),
            Entry('GC ViT-T', 'configs/cls_gcvit_t_300e.py', (754,)),
            Entry('GC ViT-S', 'configs/cls_gcvit_s_300e.py', (436,)),
            Entry('GC ViT-B', 'configs/cls_gcvit_b_300e.py', (267,)),
            Entry('DeiT-S', 'mmpretrain::deit/deit-small_4xb256_in1k.py', (437,)),
            Entry('DeiT-B', 'mmpretrain::deit/deit-base_16xb64_in1k.py', (292,)),
            Entry('Swin-T', 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py', (766,)),
            Entry('Swin-S', 'mmpretrain::swin_transformer/swin-small_16xb64_in1k.py', (444,)),
            Entry('Swin-B', 'mmpretrain::swin_transformer/swin-base_16xb64_in1k.py', (275,)),
            Entry('ConvNeXt-T', 'mmpretrain::convnext/convnext-tiny_32xb128_in1k.py', (780,)),
            Entry('ConvNeXt-S', 'mmpretrain::convnext/convnext-small_32xb128_in1k.py', (460,)),
            Entry('ConvNeXt-B', 'mmpretrain::convnext/convnext-base_32xb128_in1k.py', (290,)),
        ],
    ),
    'scalablevit6': Table(
        'ScalableViT, Table 6',
        'RTX 3090, batch 64',
        'images/s',
        64,
        (IMAGENET,),
        [
            Entry('ScalableViT-S', 'configs/cls_scalablevit_s_300e.py', (832.9,)),
            Entry('Swin-T', 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py', (975.0,)),
            Entry('Swin-S', 'mmpretrain::swin_transformer/swin-small_16xb64_in1k.py', (589.2,)),
        ],
    ),
    'gpvit10': Table(
        'GPViT, Table 10',
        'RTX 2080 Ti, batch not given',
        'ms',
        1,
        (IMAGENET, COCO, ADE20K),
        [
            Entry('GPViT-L1', 'configs/cls_gpvit_l1_300e.py', (2.7, 83, 87)),
            Entry('GPViT-L2', 'configs/cls_gpvit_l2_300e.py', (5.1, 132, 137)),
            Entry('GPViT-L3', 'configs/cls_gpvit_l3_300e.py', (7.0, 174, 182)),
            Entry('GPViT-L4', 'configs/cls_gpvit_l4_300e.py', (11.1, 281, 290)),
            _plain(216, 16, 0.9, 155, 150),
            _plain(348, 16, 1.4, 167, 162),
            _plain(432, 16, 1.8, 177, 173),
            _plain(624, 16, 2.9, 206, 203),
            _plain(216, 8, 7.5, OOM, OOM),
            _plain(348, 8, 9.5, OOM, OOM),
            _plain(432, 8, 11.3, OOM, OOM),
            _plain(624, 8, 15.9, OOM, OOM),
        ],
    ),
}


def read_config(entry: Entry) -> Config:
    """Read the config of a row.

    Raises:
        UserError: If it is one of mmpretrain's, which is not installed.
    """
    if '::' not in entry.config:
        return cli.load_config(str(ROOT / entry.config), entry.options)
    try:
        from mmengine.hub import get_config

        return get_config(entry.config)
    except (ImportError, FileNotFoundError, RuntimeError) as error:
        raise UserError(f'{entry.name} needs mmpretrain and its configs: {error}') from error


def build_classifier(entry: Entry) -> torch.nn.Module:
    """Build the whole classifier of a row, without loading weights, dropout or stochastic depth.

    Raises:
        UserError: If mmpretrain is not installed.
    """
    cfg = read_config(entry)
    cfg.model.backbone.pop('init_cfg', None)
    cfg.model.pop('train_cfg', None)
    init_default_scope('mmpretrain')
    try:
        return benchmark.make_deterministic(MODELS.build(cfg.model))
    except (ImportError, KeyError) as error:
        raise UserError(
            f'{entry.name} cannot be built: whole classifiers need mmpretrain'
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of the GPU, or of the machine, did not suffice."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in OUT_OF_MEMORY)


def time_entry(entry: Entry, setting: Setting, mode: str) -> dict:
    """Time one classifier at one size; on a GPU also its peak memory.

    Returns:
        ``parameters`` (M), ``time`` (quartiles in s), ``images_per_s``, ``memory_mib``; in
        their place ``out_of_memory`` where it did not suffice.
    """
    training = mode == 'training'
    found: dict[str, Any] = dict(out_of_memory=False)
    try:
        model = build_classifier(entry)
        found['parameters'] = count_parameters(model) / 1e6
        model.to(setting.device).train(training)
        run = benchmark.make_pass(model, setting.images, training, setting.dtype)
        rounds = setting.rounds, setting.warmups, setting.device
        times = benchmark.interleave({entry.name: run}, *rounds)[entry.name]
        found['time'] = benchmark.quartiles(times)._asdict()
        found['images_per_s'] = setting.batch / found['time']['median']
        if setting.device == 'cuda':
            weights = benchmark.weight_memory(model)
            found['memory_mib'] = weights + benchmark.peak_memory(run, model)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        found['out_of_memory'] = True
    return found


def run_table(
    name: str, only: str | None, setting: Setting, size: tuple | None, batch: int | None, mode: str
) -> Iterator[dict]:
    """Time the classifiers of a table, one after the other; give each row as it is done.

    Args:
        name: Key of ``TABLES``.
        only: Text in the names of the models wanted.
        setting: Device, precision and rounds.
        size: ``(height, width)`` of the images, instead of the table's.
        batch: Images a pass, instead of the table's.
        mode: 'forward' or 'training'.

    Raises:
        UserError: If no model has the text of ``--only``, or mmpretrain is not installed.
    """
    table = TABLES[name]
    entries = [entry for entry in table.entries if not only or only in entry.name]
    if not entries:
        names = ', '.join(entry.name for entry in table.entries)
        raise UserError(f"--only '{only}': models of {name} are {names}")
    for entry in entries:
        for height, width in [size] if size else table.sizes:
            here = setting._replace(size=(height, width), batch=batch or table.batch)
            known = (height, width) in table.sizes
            paper = entry.paper[table.sizes.index((height, width))] if known else None
            row = dict(model=entry.name, mode=mode, size=[height, width], batch=here.batch)
            row.update(dtype=here.dtype, paper=paper, paper_unit=table.unit)
            row.update(table=table.title, paper_source=table.source)
            yield {**row, **time_entry(entry, here, mode)}
            gc.collect()
            if here.device == 'cuda':
                torch.cuda.empty_cache()  # what one model held is there for the next
