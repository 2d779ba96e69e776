"""Backbones to compare with one another, by config file, by call, or by name of a peer."""

import ast
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from gcvit_mm import GCViT, UserError, backbones, cli
from gcvit_mm.checkpoints import convert_state_dict

from .ablations import MEANS, take_out
from .measure import make_deterministic
from .plain import plain_twin

_SWIN = dict(type='mmdet.SwinTransformer')
_CONVNEXT = dict(type='mmpretrain.ConvNeXt', out_indices=(0, 1, 2, 3), gap_before_final_norm=False)
PEERS: Dict[str, dict] = {
    'mmdet-swin-t': _SWIN,
    'mmdet-swin-s': dict(_SWIN, depths=(2, 2, 18, 2)),
    'mmdet-swin-b': dict(_SWIN, depths=(2, 2, 18, 2), embed_dims=128, num_heads=(4, 8, 16, 32)),
    'convnext-t': dict(_CONVNEXT, arch='tiny'),
    'convnext-s': dict(_CONVNEXT, arch='small'),
    'convnext-b': dict(_CONVNEXT, arch='base'),
}
SAME = ('transcription', 'timm', *MEANS)  # peers that must compute what the subject does
TIMM_SIZE, TIMM_WINDOWS = (224, 224), (7, 7, 14, 7)  # its windows depend on the image


def build(spec: str, cfg_options: Optional[dict] = None) -> nn.Module:
    """Build a backbone, without loading weights, dropout or stochastic depth.

    Args:
        spec: Config file, call such as ``"GCViT(arch='tiny')"``, or key of ``PEERS``.
        cfg_options: Changes to the config file.

    Raises:
        UserError: If it is none of these, or cannot be built.
    """
    if spec.endswith('.py'):
        cfg = read_backbone(spec, cfg_options)
    else:
        cfg = dict(PEERS[spec]) if spec in PEERS else parse_call(spec)
    try:
        return make_deterministic(MODELS.build(cfg))
    except (ImportError, KeyError) as error:
        reason = str(error).strip('"\'').split('.')[0]
        raise UserError(f'{spec} cannot be built: {reason}: is its package installed?') from error
    except (TypeError, ValueError) as error:
        raise UserError(f'{spec} cannot be built: {error}') from error


def read_backbone(path: str, cfg_options: Optional[dict]) -> dict:
    """Return the backbone of a config, or of a file in configs/_base_/backbones.

    Raises:
        UserError: If there is none.
    """
    if Path(path).is_file() and Path(path).parent.name == 'backbones':
        cfg = Config(dict(model=dict(backbone=Config.fromfile(path).backbone)))
        cfg.merge_from_dict(cfg_options or {})
    else:
        cfg = cli.load_config(path, cfg_options)
    if 'backbone' not in cfg.model:
        raise UserError(f'{path}: its model has no backbone')
    backbone = cfg.model.backbone.to_dict()
    backbone.pop('init_cfg', None)
    if not hasattr(backbones, backbone['type']) and '.' not in backbone['type']:
        backbone['type'] = '{}.{}'.format(cfg.get('default_scope', 'mmengine'), backbone['type'])
    return backbone


def parse_call(spec: str) -> dict:
    """Turn ``"Name(key=value)"`` into a config.

    Raises:
        UserError: If it is no call with literal keyword arguments.
    """
    try:
        call = ast.parse(spec, mode='eval').body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError(spec)
        options = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        return dict(options, type=spec.partition('(')[0].strip())
    except (SyntaxError, ValueError):
        raise UserError(
            f"'{spec}' is no config file, no call such as \"GCViT(arch='tiny')\" and no peer; "
            f'peers are {", ".join([*SAME, *PEERS])}'
        ) from None


def build_peer(name: str, subject: nn.Module, size: Tuple[int, int]) -> nn.Module:
    """Build what a subject is compared with; one that is to compute the same shares weights.

    Args:
        name: One of ``SAME``, or what :func:`build` takes.
        subject: The backbone. If the peer is to compute the same, it gets new weights: drawn
            so that every part matters, and for timm those of timm's model.
        size: ``(height, width)`` of the images.

    Raises:
        UserError: If there is no such peer, or none for this subject.
    """
    if name not in SAME:
        return build(name)
    if name in MEANS:
        _draw_weights(subject)
        return take_out(name, subject)
    if not isinstance(subject, GCViT):
        raise UserError(f'{name} is a GC ViT and no peer of {type(subject).__name__}')
    if name == 'timm':
        return _timm(subject, size)
    _draw_weights(subject)
    try:
        return plain_twin(subject)
    except (RuntimeError, ValueError) as error:
        raise UserError(f'transcription: {str(error).splitlines()[0]}') from error


def _timm(subject: GCViT, size: Tuple[int, int]) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise UserError('timm is not installed: pip install timm') from error
    stages: Any = subject.stages
    windows = tuple(stage.blocks[0].attn.window_size[0] for stage in stages)
    name = f'gcvit_{subject.arch}'
    if name not in timm.list_models('gcvit_*') or windows != TIMM_WINDOWS:
        raise UserError(f'timm has no GC ViT of arch {subject.arch} with windows {windows}')
    if tuple(size) != TIMM_SIZE:
        raise UserError('timm changes the windows with the image: compare at --size 224 224')
    twin = timm.create_model(name, pretrained=False, num_classes=0)
    _draw_weights(twin)
    state = convert_state_dict(twin.state_dict())
    own = {k[len('backbone.') :]: v for k, v in state.items() if k.startswith('backbone.')}
    missing, unexpected = subject.load_state_dict(own, strict=False)
    misfits = [*unexpected, *(key for key in missing if not key.startswith('norm'))]
    if misfits:
        raise UserError(f'timm: {name} does not fit the subject: {", ".join(misfits[:3])}')
    without_head: Any = (twin.stem, twin.stages)
    return make_deterministic(nn.Sequential(*without_head))


def _draw_weights(model: nn.Module) -> None:
    """Draw weights under which every part matters: fresh ones leave attention all but flat."""
    for name, p in model.named_parameters():
        kind = name.rpartition('.')[2]
        if kind == 'relative_position_bias_table':
            nn.init.normal_(p, std=0.5)
        elif p.ndim > 1:
            nn.init.normal_(p, std=p[0].numel() ** -0.5)
        else:
            mean = 0.5 if 'gamma' in kind else float(kind == 'weight')
            nn.init.normal_(p, mean, 0.1)
