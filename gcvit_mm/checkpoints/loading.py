"""Loading a checkpoint into a backbone, loudly."""

import logging
import re
from collections import Counter
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Union

import torch
from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn
from typing_extensions import Protocol

from ..errors import CheckpointError
from ..layers import Fitted
from ..messages import printable
from .convert import BACKBONE, split_state_dict
from .reading import read_checkpoint, unwrap

# Parts of a backbone that a file may lack as a whole: a classifier has one output norm, and no
# adapter.
MAY_BE_NEW = r'(norm\d+|adapter)\.'

_said: set = set()


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        print_log(text, logger='current', level=logging.WARNING)


def _names(keys: List[str], most: int = 4) -> str:
    more = f' and {len(keys) - most} more' if len(keys) > most else ''
    return printable(', '.join(keys[:most])) + more


class Loadable(Protocol):
    """What is asked of a backbone beside being a module."""

    arch: str
    num_built_stages: int


def _has_no_use(key: str, backbone: Loadable) -> bool:
    """Tell whether a key belongs to a part that this backbone leaves out by its arguments."""
    match = re.match(r'(?:stages\.|layers\.|norm)(\d+)\.', key)
    if not match:
        return False
    stage = int(match[1])
    if key.startswith('norm'):
        return not hasattr(backbone, f'norm{stage}')
    last = backbone.num_built_stages - 1
    return stage > last or (stage == last and '.downsample.' in key)


def plain_weights(content: Dict[str, Any], checkpoint: str, ema: bool = False) -> Dict[str, Tensor]:
    """Take the weights out of a checkpoint, whatever a trainer has saved around them.

    Args:
        content: The checkpoint, read.
        checkpoint: Its path, for messages.
        ema: Take the averaged weights.

    Raises:
        CheckpointError: If it holds none, or some that are not finite numbers.
    """
    try:
        state = unwrap(content, ema)
    except CheckpointError as error:
        raise CheckpointError(
            f'checkpoint {checkpoint}: {error}: name the file that the training saved'
        ) from error
    for key, value in state.items():
        plain = value.layout is torch.strided and not (value.is_quantized or value.is_complex())
        if not plain or value.is_meta or not value.isfinite().all():
            raise CheckpointError(
                f'checkpoint {checkpoint}: {key} holds numbers that are not finite, or is no plain '
                'tensor: take an earlier checkpoint'
            )
    return state


class Match(NamedTuple):
    """How weights compare with those of a model.

    Args:
        own: Those of the model.
        good: Those that fit, in the shapes of the model.
        notes: What was fitted for that.
        problems: What does not fit; empty if all does.
    """

    own: Dict[str, Tensor]
    good: Dict[str, Tensor]
    notes: List[str]
    problems: List[str]


def match(
    state: Dict[str, Tensor], model: nn.Module, ignore: Sequence[str] = (), fit: bool = True
) -> Match:
    """Compare weights with those of a model.

    Args:
        state: The weights.
        model: The model.
        ignore: Keys that may be missing or unexpected.
        fit: Resize what is resized when it is loaded, see :class:`gcvit_mm.layers.Fitted`.
    """
    own, state = model.state_dict(), dict(state)
    counts: Counter = Counter()
    for name, module in model.named_modules() if fit else ():
        if isinstance(module, Fitted):
            key = f'{name}.{module.fitted}' if name else module.fitted
            if key not in state:
                continue
            fitted = module.fit(state[key])
            if fitted is not state[key]:
                counts[module.fit_note(key, state[key])] += 1
                state[key] = fitted
    notes = [note if count == 1 else f'{count} {note}' for note, count in counts.items()]
    misshapen = [k for k in state if k in own and state[k].shape != own[k].shape]
    missing = [k for k in own if k not in state and k not in ignore]
    unexpected = [k for k in state if k not in own and k not in ignore]
    problems = []
    if misshapen:
        k = misshapen[0]
        problems.append(
            f'{len(misshapen)} of another shape (e.g. {k}: file {tuple(state[k].shape)}, '
            f'model {tuple(own[k].shape)})'
        )
    if missing:
        problems.append(f'{len(missing)} missing ({_names(missing)})')
    if unexpected:
        problems.append(f'{len(unexpected)} unexpected ({_names(unexpected)})')
    good = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    return Match(own, good, notes, problems)


def pretrained_cfg(init_cfg: Union[dict, List[dict], None]) -> dict:
    """Find what an ``init_cfg`` says of weights to load.

    Args:
        init_cfg: A dict, a list of them, or None.

    Returns:
        The last dict of type 'Pretrained', empty where there is none.

    Raises:
        TypeError: If it is anything else, or a dict lacks its type or the file.
    """
    found: dict = {}
    for cfg in init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg] if init_cfg else []:
        if not isinstance(cfg, dict) or 'type' not in cfg:
            raise TypeError(
                "init_cfg must be a dict such as dict(type='Pretrained', checkpoint=FILE), or a "
                f'list of them, got {init_cfg!r}'
            )
        if cfg['type'] in ('Pretrained', PretrainedInit):
            if not isinstance(cfg.get('checkpoint'), str) or not cfg['checkpoint']:
                raise TypeError(f"init_cfg: type 'Pretrained' needs checkpoint=FILE, got {cfg!r}")
            found = cfg
    return found


def load_pretrained(
    backbone: Any,
    checkpoint: str,
    prefix: Optional[str] = None,
    allow_partial: bool = False,
    ema: bool = False,
    trust_checkpoint: bool = False,
) -> None:
    """Load a checkpoint into a backbone and say what was loaded.

    This is what ``init_cfg=dict(type='Pretrained', checkpoint=...)`` does, and the other
    arguments are further keys of that dict. Position bias tables are resized to the windows of
    the model and the stem is fitted to ``in_channels``. Left out without complaint, because
    their reason is known: classifier heads, stages and norms that ``out_indices`` does not
    need, and output norms that a classifier never had (they start fresh).

    Args:
        backbone: Backbone of this package.
        checkpoint: Path or address of a checkpoint in the authors', timm's or our layout.
        prefix: Take only keys with this prefix, and cut it off. ``backbone.`` is recognised
            by itself.
        allow_partial: Turn missing, unexpected and misshapen keys into warnings.
        ema: Take the averaged weights of the file.
        trust_checkpoint: Also read files that hold Python objects, which may run code.

    Raises:
        CheckpointError: If the file cannot be read or does not fit the backbone.
    """
    state = plain_weights(read_checkpoint(checkpoint, trust_checkpoint), checkpoint, ema)
    if prefix:
        prefix = prefix.rstrip('.') + '.'
        state = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
        if not state:
            raise CheckpointError(f"checkpoint {checkpoint} has no keys that begin with '{prefix}'")
    try:
        state, rest, layout = split_state_dict(state)
    except CheckpointError as error:
        raise CheckpointError(
            f'checkpoint {checkpoint}: {error}: give one of these families, or name the part of '
            "the file with 'prefix' in init_cfg"
        ) from error
    own = backbone.state_dict()
    unused = [k for k in state if k not in own and _has_no_use(k, backbone)]
    stored_parts = {k.partition('.')[0] for k in state}
    fresh = [k for k in own if re.match(MAY_BE_NEW, k) and k.partition('.')[0] not in stored_parts]
    _, good, notes, problems = match(state, backbone, ignore=(*unused, *fresh))
    name = f"{type(backbone).__name__}(arch='{backbone.arch}')"
    if not good or (problems and not allow_partial):
        raise CheckpointError(
            f'checkpoint {checkpoint} ({layout.name}) does not fit {name}: {"; ".join(problems)}. '
            'Build the model with the arguments it was trained with, or set '
            'allow_partial=True in init_cfg to load what fits'
        )
    backbone.load_state_dict(good, strict=False)

    if fresh:
        notes.append(f'not in the file, start fresh: {_names(fresh)}')
    left_out = len(unused) + len(rest)
    if left_out:
        notes.append(f'{left_out} of heads and unused stages left out')
    wanted = len(own) - len(fresh)
    loaded = f'loaded {len(good)} of {wanted} weights of {name} from {checkpoint}'
    print_log('; '.join([f'{loaded} ({layout.name} layout)', *notes]), logger='current')
    if problems:
        print_log(f'allow_partial: {"; ".join(problems)}', logger='current', level=logging.WARNING)
    if layout.licence:
        _say_once(f'{checkpoint}: {layout.licence}')


def load_model(
    model: Any,
    checkpoint: str,
    allow_partial: bool = False,
    trust_checkpoint: bool = False,
) -> dict:
    """Load a checkpoint of a whole detector, segmentor or classifier, for testing.

    mmengine's own loading passes over keys that do not match, and an evaluation then reports
    an AP of nearly zero. This raises instead.

    Args:
        model: The model, also inside wrappers that call it ``module``.
        checkpoint: Path or address of a checkpoint that this model wrote, or that
            ``tools/convert_checkpoint.py`` has converted.
        allow_partial: Turn missing, unexpected and misshapen keys into a warning.
        trust_checkpoint: Also read files that hold Python objects, which may run code.

    Returns:
        The ``meta`` of the checkpoint, empty if it has none.

    Raises:
        CheckpointError: If the file cannot be read or does not fit.
    """
    while hasattr(model, 'module'):
        model = model.module
    content = read_checkpoint(checkpoint, trust_checkpoint)
    state = plain_weights(content, checkpoint)
    own, good, _, problems = match(state, model)
    if not good or (problems and not allow_partial):
        raise CheckpointError(
            f'checkpoint {checkpoint} does not fit the {type(model).__name__} of this config: '
            f'{"; ".join(problems)}. Use the config it was trained with; convert released '
            'checkpoints with tools/convert_checkpoint.py; --allow-partial loads what fits'
        )
    model.load_state_dict(good, strict=False)
    print_log(f'loaded {len(good)} of {len(own)} weights from {checkpoint}', logger='current')
    if problems:
        print_log(f'--allow-partial: {"; ".join(problems)}', 'current', logging.WARNING)
    meta = content.get('meta')
    return meta if isinstance(meta, dict) else {}


def check_whole_model(model: nn.Module, content: dict, checkpoint: str, resume: bool) -> None:
    """Check a checkpoint before mmengine loads it, which passes over what does not fit.

    Args:
        model: The model that will be trained.
        content: The checkpoint, read.
        checkpoint: Its path, for messages.
        resume: Whether training resumes from it, so that all weights must fit; otherwise most of
            those of the backbone must (other heads are usual).

    Raises:
        CheckpointError: If it does not fit, or holds weights that are not finite.
    """
    state, name = plain_weights(content, checkpoint), type(model).__name__
    if resume:
        own = model.state_dict()
        more = [k for k in state if k not in own]
        problems = match(state, model, ignore=more, fit=False).problems
        problems += [
            f'{key} holds other numbers'
            for key, value in own.items()
            if key in state and state[key].is_floating_point() != value.is_floating_point()
        ]
        if problems:
            raise CheckpointError(
                f'--resume: {checkpoint} does not fit the {name} of this config: '
                f'{"; ".join(problems)}: use the config it was trained with'
            )
        return
    own, good, _, _ = match(state, model)
    wanted = [k for k in own if k.startswith(BACKBONE)] or list(own)
    fitting = [k for k in wanted if k in good]
    if 2 * len(fitting) < len(wanted):
        raise CheckpointError(
            f'load_from: {checkpoint} fits {len(fitting)} of {len(wanted)} weights of the '
            f'{"backbone" if wanted[0].startswith(BACKBONE) else name} of this config: name a '
            'checkpoint of the same model, convert released ones with '
            'tools/convert_checkpoint.py, or give them as init_cfg of the backbone'
        )


def read_safely(trust: bool = False) -> None:
    """Let mmengine read files and http addresses without running what is in them.

    Its own loader falls back to running it. The tools of this package call this; call it yourself
    before ``init_detector``, ``DetInferencer``, ``get_model`` and the like of other packages.

    Args:
        trust: Read all the same files that hold Python objects, which may run code.
    """

    def read(filename: str, map_location: Any = None, **kwargs: Any) -> dict:
        content = read_checkpoint(filename, trust)
        if 'state_dict' not in content:  # mmengine looks for no other name, and loads nothing
            content['state_dict'] = plain_weights(content, filename)
        return content

    CheckpointLoader.register_scheme(prefixes=['', 'http://', 'https://'], loader=read, force=True)
