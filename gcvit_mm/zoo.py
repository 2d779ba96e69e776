"""What there is by name: backbones to create, configs to load."""

import difflib
import os
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Type, Union

import torch

from . import backbones
from .addresses import home
from .backbones.base import BaseBackbone
from .errors import UserError

# Names are FAMILY_ARCH, as those of configs begin; archs in lower case.
FAMILIES = dict(
    gcvit='GCViT',
    scalablevit='ScalableViT',
    gg='GGTransformer',
    ggdeit='GGDeiT',
    gpvit='GPViT',
    gpvit_adapter='GPViTAdapter',
)
# The authors' files of GC ViT; those of 384 and 512 began with ImageNet-21K.
GCVIT = 'https://huggingface.co/nvidia/GCViT/resolve/main/gcvit_{}.pth.tar'
ARCHS_1K = ('xxtiny', 'xtiny', 'tiny', 'tiny2', 'small', 'small2', 'base', 'large')
RELEASED = {
    **{f'gcvit_{arch}': GCVIT.format(f'1k_{arch}') for arch in ARCHS_1K},
    **{f'gcvit_{arch}': GCVIT.format(f'21k_{arch}') for arch in ('large_384', 'large_512')},
}
# Why there is no address, and what to do.
NO_ADDRESS = dict(
    ScalableViT='the authors keep their weights on Google Drive: fetch the file',
    GPViT='no address of weights is recorded here: fetch the file from the authors',
)
# What the first part of a config's name says.
TASKS = dict(
    cascade='instance segmentation',
    mask='instance segmentation',
    retinanet='object detection',
    dino='object detection',
    upernet='semantic segmentation',
    semfpn='semantic segmentation',
    segformer='semantic segmentation',
    cls='classification',
)
RESULTS = ('box AP', 'mask AP', 'mIoU', 'mIoU (multi-scale)', 'top-1')


@dataclass(frozen=True)
class ModelInfo:
    """One model: a config, or a backbone by itself.

    Attributes:
        name: For :func:`gcvit_mm.load`, that of a backbone for :func:`gcvit_mm.create`.
        task: What it does; 'backbone' for those.
        data: What the config trains on.
        parameters: Of the whole model, counted.
        flops: Multiply-accumulates of one image at the size in docs/model_zoo.md, counted; None
            for a backbone.
        published: What the authors print, such as ``{'box AP': 46.5}``. **Not measured with this
            code.**
        weights: Address of released weights, for ``create(name, pretrained=True)``.
    """

    name: str
    task: str
    data: str = ''
    parameters: int = 0
    flops: Optional[int] = None
    published: Dict[str, float] = field(default_factory=dict)
    weights: Optional[str] = None


class ModelList(List[ModelInfo]):
    """Models that print as a table."""

    def __repr__(self) -> str:
        if not self:
            return 'no model has such a name'
        rows = [('name', 'task', 'data', 'M', 'G', 'printed by the authors', 'weights')]
        for m in self:
            flops = '-' if m.flops is None else f'{m.flops / 1e9:.1f}'
            printed = ', '.join(f'{key} {value}' for key, value in m.published.items())
            weights = 'released' if m.weights else ''
            millions = f'{m.parameters / 1e6:.2f}'
            rows.append((m.name, m.task, m.data, millions, flops, printed, weights))
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = []
        for row in rows:
            cells = [
                cell.rjust(width) if i in (3, 4) else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths))
            ]
            lines.append('  '.join(cells).rstrip())
        return '\n'.join(lines)


# ------------------------------------------------------------------- backbones
@lru_cache(maxsize=None)
def backbone_names() -> Dict[str, Tuple[Type[BaseBackbone], str]]:
    """Class and arch of every backbone by its name."""
    names = {}
    for family, name in FAMILIES.items():
        cls = getattr(backbones, name)
        names.update({f'{family}_{arch.lower()}': (cls, arch) for arch in cls.arch_zoo})
    return names


def create(name: str, pretrained: Union[bool, str, Path] = False, **kwargs: Any) -> BaseBackbone:
    """Build a backbone by its name, with its weights loaded at once.

    Args:
        name: One of ``list_models()`` with the task 'backbone', such as 'gcvit_tiny', 'gg_small',
            'scalablevit_base', 'gpvit_l1' or 'gpvit_adapter_l1'.
        pretrained: True loads the authors' ImageNet weights where they have a public address
            (GC ViT); a path or an address loads that file. Their licence is said, a download is
            kept and its hash compared where its name has one, and what does not fit is an error:
            see :func:`gcvit_mm.checkpoints.load_pretrained`.
        kwargs: Arguments of the backbone, such as ``out_indices``. An ``init_cfg`` is followed at
            once too.

    Returns:
        The backbone, in training mode, on the CPU.

    Raises:
        UserError: If there is no such name, or no released weights for it.
        CheckpointError: If weights cannot be had, or do not fit.

    Example:
        >>> import gcvit_mm
        >>> net = gcvit_mm.create('gg_tiny', out_indices=(1, 3))
        >>> net.out_channels
        (192, 768)
    """
    known = backbone_names()
    if name not in known:
        close = difflib.get_close_matches(str(name).lower(), known, n=1)
        hint = f'did you mean {close[0]}?' if close else "list_models('*', 'backbone') shows all"
        raise UserError(f'there is no backbone {name}: {hint}')
    cls, arch = known[name]
    if pretrained:
        if kwargs.get('init_cfg'):
            raise UserError('create: pretrained and init_cfg both name weights: leave one out')
        source = released(name) if pretrained is True else os.fspath(pretrained)
        kwargs['init_cfg'] = dict(type='Pretrained', checkpoint=source)
    backbone = cls(arch, **kwargs)
    if kwargs.get('init_cfg'):
        backbone.init_weights()
    return backbone


def released(name: str) -> str:
    """Address of the authors' weights of a backbone.

    Raises:
        UserError: If there are none, or no public address.
    """
    if name in RELEASED:
        return RELEASED[name]
    cls, _ = backbone_names()[name]
    reason = next((NO_ADDRESS[c.__name__] for c in cls.__mro__ if c.__name__ in NO_ADDRESS), '')
    if reason:
        raise UserError(f"{name}: {reason}, then create('{name}', pretrained=FILE)")
    raise UserError(f'{name}: {cls.weights_note}')


# ------------------------------------------------------------------- configs
def read_entries(index: Optional[Path] = None) -> Dict[str, dict]:
    """Read the models of all metafiles by name.

    Args:
        index: The file that names the metafiles; by default the shipped one.

    Raises:
        UserError: If a file is missing, or a name stands there twice.
    """
    import yaml

    entries: Dict[str, dict] = {}
    index = index or home() / 'model-index.yml'
    try:
        for file in yaml.safe_load(index.read_text())['Import']:
            for entry in yaml.safe_load((index.parent / file).read_text())['Models']:
                if entry['Name'] in entries:
                    raise UserError(f'{file} has {entry["Name"]} again: keep one entry')
                entries[entry['Name']] = entry
    except OSError as error:
        raise UserError(f'{error.filename} does not exist: see Import in {index}') from error
    return entries


@lru_cache(maxsize=None)
def _configs() -> Tuple[ModelInfo, ...]:
    rows = []
    for name, entry in read_entries().items():
        metadata, published = entry['Metadata'], entry['Published']
        rows.append(
            ModelInfo(
                name,
                TASKS[name.split('_')[0]],
                metadata['Training Data'],
                metadata['Parameters'],
                metadata['FLOPs'],
                {key: published[key] for key in RESULTS if key in published},
            )
        )
    return tuple(rows)


@lru_cache(maxsize=None)
def _backbone(name: str) -> ModelInfo:
    cls, arch = backbone_names()[name]
    with torch.device('meta'):
        parameters = sum(p.numel() for p in cls(arch).parameters())
    return ModelInfo(name, 'backbone', '', parameters, weights=RELEASED.get(name))


def list_models(pattern: str = '*', task: Optional[str] = None) -> ModelList:
    """List the shipped configs and the backbones.

    Args:
        pattern: What names shall match, with ``*``, ``?`` and ``[...]`` as in a shell.
        task: 'instance segmentation', 'object detection', 'semantic segmentation',
            'classification' or 'backbone'; all by default.

    Returns:
        A list of :class:`ModelInfo` that prints as a table: parameters (M), multiply-accumulates
        (G), and what the authors print, which was not measured with this code.

    Raises:
        UserError: If there is no such task.

    Example:
        >>> import gcvit_mm
        >>> [model.name for model in gcvit_mm.list_models('*gg_t*', 'instance segmentation')]
        ['mask_gg_t_1x', 'cascade_gg_t_1x']
    """
    tasks = (*dict.fromkeys(TASKS.values()), 'backbone')
    if task not in (None, *tasks):
        close = difflib.get_close_matches(str(task), tasks, n=1)
        hint = f'did you mean {close[0]}?' if close else f'there are {", ".join(tasks)}'
        raise UserError(f"list_models: there is no task '{task}': {hint}")
    configs = [m for m in _configs() if fnmatch(m.name, pattern.lower())]
    names = [name for name in backbone_names() if fnmatch(name, pattern.lower())]
    if task not in (None, 'backbone'):
        names = []
    found = [*map(_backbone, names), *configs]
    return ModelList(m for m in found if task in (None, m.task))
