"""What all backbones share: arch lookup, strict arguments, output norms, freezing, loading."""

import copy
import difflib
import inspect
import logging
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.init import trunc_normal_
from typing_extensions import TypedDict

from ..checkpoints import load_pretrained, pretrained_cfg
from ..compat import is_compiling, torch_before
from ..errors import CheckpointError
from ..layers import build_channels_last_norm

InitCfg = Union[dict, List[dict], None]


class BackboneArgs(TypedDict, total=False):
    """The arguments that all backbones share; :class:`BaseBackbone` says what they mean."""

    in_channels: int
    out_indices: Optional[Sequence[int]]
    drop_rate: float
    drop_path_rate: Optional[float]
    frozen_stages: int
    with_cp: Union[bool, Sequence[int]]
    compile: Union[bool, dict]
    norm_cfg: Optional[dict]
    init_cfg: InitCfg


class BaseBackbone(BaseModule):
    """Base of the backbones: a stem, stages and a norm for every output map.

    A subclass fills ``arch_zoo``, builds ``patch_embed`` and ``stages`` (as many as
    ``self.num_built_stages``) and calls :meth:`finish` as the last line of its constructor. A
    stage returns its map (B, H, W, C) and the input of the next stage.

    Args:
        arch: Name in ``arch_zoo``, or a dict with the keys of its entries.
        in_channels: Channels of the image.
        out_indices: Stages whose maps are returned, ascending; negative ones count from the
            end. Later stages are not built, so that every parameter has a use. Default:
            ``default_out_indices`` of the family.
        drop_rate: Dropout after the stem, the projections and in the MLPs.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 at the
            first one. Default: that of the arch, published for classification.
        frozen_stages: -1 freezes nothing, 0 the stem, i the stem and the first i stages
            together with their output norms: parameters, mode and statistics.
        with_cp: Recompute blocks in the backward pass to save memory: ``True`` those of all
            stages, or some stages, as ``(0, 1)``. The first ones hold most.
        compile: Run the backbone through ``torch.compile``: ``True`` for sizes that change from
            batch to batch (``compile_defaults``), or a dict of its arguments. The first passes take
            minutes. Names of weights stay, copies (as EMA makes them) run eagerly. Needs torch 2.2.
        norm_cfg: Config of all norms; they act on the last axis. Default: ``default_norm`` of the
            family.
        init_cfg: ``dict(type='Pretrained', checkpoint=PATH_OR_URL)``, see
            :func:`gcvit_mm.checkpoints.load_pretrained`, or any other mmengine init config. It is
            followed by :meth:`init_weights`, which runners call.
        unknown: Nothing that a backbone takes.

    Raises:
        TypeError: If there are unknown arguments or arch keys; the message names the known.
        ValueError: If a value is out of range; the message names what fits.
    """

    arch_zoo: Dict[str, Dict[str, Any]] = {}
    num_stages = 4
    default_out_indices: Tuple[int, ...] = (0, 1, 2, 3)
    default_norm: Dict[str, Any] = dict(type='LN', eps=1e-5)
    not_taken: Tuple[str, ...] = ()  # ('out_indices',) where a family has no choice of them
    weights_note = ''  # said when a checkpoint cannot be had or does not fit
    # For torch.compile. Convolutions are channels-last already; where torch 2.11 reorders them
    # itself, training fails on the CPU at sizes that change.
    compile_defaults = dict(dynamic=True, options=dict(layout_optimization=False))

    def __init__(
        self,
        arch: Union[str, dict],
        in_channels: int = 3,
        out_indices: Optional[Sequence[int]] = None,
        drop_rate: float = 0.0,
        drop_path_rate: Optional[float] = None,
        frozen_stages: int = -1,
        with_cp: Union[bool, Sequence[int]] = False,
        compile: Union[bool, dict] = False,
        norm_cfg: Optional[dict] = None,
        init_cfg: InitCfg = None,
        **unknown: Any,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        # the file of init_cfg, until it or any other is loaded
        self._not_loaded: Optional[str] = pretrained_cfg(init_cfg).get('checkpoint')
        if out_indices is not None and 'out_indices' in self.not_taken:
            unknown['out_indices'] = out_indices
        self.refuse(*unknown)
        self.arch, self.arch_settings = self._resolve_arch(arch)
        self.in_channels = in_channels
        self.out_indices = self._resolve_out_indices(out_indices)
        self.num_built_stages = self.out_indices[-1] + 1
        self._say_what_is_left_out()
        if not -1 <= frozen_stages <= self.num_built_stages:
            raise ValueError(
                f'frozen_stages must be between -1 and {self.num_built_stages} (the number of '
                f'stages built for out_indices={self.out_indices}), got {frozen_stages}'
            )
        self.frozen_stages = frozen_stages
        self.drop_rate = drop_rate
        if drop_path_rate is None:
            drop_path_rate = self.arch_settings['drop_path_rate']
        self.drop_path_rate: float = drop_path_rate
        self.with_cp = with_cp
        self.recomputed = self._resolve_with_cp(with_cp)
        self.norm_cfg = norm_cfg or self.default_norm
        if compile is not False:
            if torch_before('2.2'):
                raise ValueError('compile needs torch 2.2 or later: leave it out')
            options = self.compile_defaults if compile is True else {'dynamic': True, **compile}
            self.compile(**options)

    # ------------------------------------------------------------------ construction
    @classmethod
    def refuse(cls, *names: str) -> None:
        """Raise the error for arguments that this backbone does not take; none are fine.

        Raises:
            TypeError: With the nearest name, and all that it takes.
        """
        if not names:
            return
        families = cls.__mro__[: cls.__mro__.index(BaseBackbone) + 1]
        parameters = [p for c in families for p in inspect.signature(c).parameters.values()]
        known = [
            p.name
            for p in parameters
            if p.kind is not p.VAR_KEYWORD and p.name not in cls.not_taken
        ]
        known = list(dict.fromkeys(known))
        close = difflib.get_close_matches(names[0], known, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ''
        raise TypeError(
            f"{cls.__name__} has no argument '{names[0]}'{hint}; it knows: {', '.join(known)}"
        )

    @classmethod
    def _resolve_arch(cls, arch: Union[str, dict]) -> Tuple[str, Dict[str, Any]]:
        if isinstance(arch, str):
            if arch not in cls.arch_zoo:
                raise ValueError(
                    f"{cls.__name__} has no arch '{arch}'; it knows: {', '.join(cls.arch_zoo)}"
                )
            return arch, copy.deepcopy(cls.arch_zoo[arch])
        keys = set(next(iter(cls.arch_zoo.values())))
        if set(arch) != keys:
            missing, extra = sorted(keys - set(arch)), sorted(set(arch) - keys)
            raise TypeError(
                f'the arch dict of {cls.__name__} needs exactly the keys {sorted(keys)}; '
                f'missing: {missing or "none"}, unknown: {extra or "none"}'
            )
        return 'custom', copy.deepcopy(dict(arch))

    def _resolve_out_indices(self, out_indices: Optional[Sequence[int]]) -> Tuple[int, ...]:
        n = self.num_stages
        out_indices = self.default_out_indices if out_indices is None else out_indices
        indices = [i + n if i < 0 else i for i in out_indices]
        in_range = all(0 <= i < n for i in indices)
        if not indices or not in_range or sorted(set(indices)) != indices:
            raise ValueError(
                f'out_indices must be ascending, without repetition and within 0..{n - 1} '
                f'(negative ones count from the end), got {tuple(out_indices)}'
            )
        return tuple(indices)

    def _resolve_with_cp(self, with_cp: Union[bool, Sequence[int]]) -> Tuple[bool, ...]:
        """Whether the blocks of each stage that is built are recomputed."""
        n = self.num_built_stages
        if with_cp in (True, False):
            return (bool(with_cp),) * n
        known = isinstance(with_cp, (list, tuple)) and all(
            type(i) is int and 0 <= i < n for i in with_cp
        )
        if not known:
            raise ValueError(
                f'with_cp must be True, False or some of the stages 0..{n - 1}, as (0,), got '
                f'{with_cp!r}'
            )
        return tuple(i in with_cp for i in range(n))  # type: ignore[operator]

    def _say_what_is_left_out(self) -> None:
        built, total = sum(self.depths[: self.num_built_stages]), sum(self.depths)
        if 2 * built < total:
            print_log(
                f"{type(self).__name__}(arch='{self.arch}'): out_indices={self.out_indices} builds "
                f'{built} of {total} blocks and leaves the rest out: the last stage is '
                f'{self.num_stages - 1}',
                logger='current',
                level=logging.WARNING,
            )

    def per_stage(self, value: Any, name: str) -> Tuple[Any, ...]:
        """Return one value a stage: a list or tuple of them as it is, anything else repeated.

        Raises:
            ValueError: If a sequence has another length than the number of stages.
        """
        if not isinstance(value, (list, tuple)):
            return (value,) * self.num_stages
        if len(value) != self.num_stages:
            raise ValueError(
                f'{name} needs one value for all or one for each of the {self.num_stages} '
                f'stages, got {value!r}'
            )
        return tuple(value)

    def drop_paths(self) -> List[List[float]]:
        """Stochastic depth of every block of every stage, built or not: from 0 up to
        ``drop_path_rate``."""
        last = max(sum(self.depths) - 1, 1)
        rates = iter([self.drop_path_rate * k / last for k in range(sum(self.depths))])
        return [[next(rates) for _ in range(depth)] for depth in self.depths]

    @property
    def depths(self) -> Tuple[int, ...]:
        """Number of blocks of every stage."""
        return self.per_stage(self.arch_settings['depths'], 'depths')

    def finish(self, embed_dims: Sequence[int], norms: bool = True) -> None:
        """Add the output norms, initialise, freeze: the last step of a constructor.

        Args:
            embed_dims: Channels of each stage.
            norms: Give every output map its norm.
        """
        self.embed_dims = tuple(embed_dims)
        self.out_channels = tuple(embed_dims[i] for i in self.out_indices)
        for i in self.out_indices if norms else ():
            self.add_module(f'norm{i}', build_channels_last_norm(self.norm_cfg, embed_dims[i]))
        if not next(self.parameters()).is_meta:
            self.apply(self.init_module)
        self.to(memory_format=torch.channels_last)  # else convolutions reorder their weights
        self._freeze()

    # ------------------------------------------------------------------ weights
    @staticmethod
    def init_module(module: nn.Module) -> None:
        """Initialise one layer: Linear trunc-normal with std 0.02, bias 0."""
        if isinstance(module, nn.Linear):
            trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def init_weights(self) -> None:
        """Initialise as ``init_cfg`` says; 'Pretrained' is loaded loudly.

        The constructor has already initialised the weights as the paper does, so without an
        ``init_cfg`` nothing is left to do. It does not load any: it cannot know whether it is
        called by hand, by a runner that resumes or tests (and must not download what it replaces at
        once), by one that trains (and calls this method), or to count on the meta device. A
        backbone that computes before its 'Pretrained' or other weights were loaded says so, once.
        """
        options = {k: v for k, v in pretrained_cfg(self.init_cfg).items() if k != 'type'}
        if not options:
            return super().init_weights()
        try:
            load_pretrained(self, **options)
        except CheckpointError as error:
            if self.weights_note:
                raise CheckpointError(f'{error}; {self.weights_note}') from error
            raise
        self.is_init = True

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        if any(key.startswith(prefix) for key in state_dict):
            self._not_loaded = None
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _say_not_loaded(self) -> None:
        print_log(
            f'{type(self).__name__} computes with random weights: init_cfg names '
            f'{self._not_loaded}, which was not loaded: call init_weights() after building it, or '
            'build it with gcvit_mm.create()',
            logger='current',
            level=logging.WARNING,
        )
        self._not_loaded = None

    # ------------------------------------------------------------------ freezing
    def _freeze(self) -> None:
        for module in self._frozen_modules():
            module.eval()
            module.requires_grad_(False)
        if self.frozen_stages >= 0:
            for parameter in self.parameters(recurse=False):  # tokens belong to the stem
                parameter.requires_grad_(False)

    def _frozen_modules(self) -> List[nn.Module]:
        if self.frozen_stages < 0:
            return []
        names = ['patch_embed', 'pos_embed', *(f'norm{i}' for i in range(self.frozen_stages))]
        frozen = [getattr(self, name) for name in names if hasattr(self, name)]
        return [*frozen, *self.stages[: self.frozen_stages]]

    def train(self, mode: bool = True) -> 'BaseBackbone':
        """Set the mode; frozen parts stay in eval mode. Returns self."""
        super().train(mode)
        self._freeze()
        return self

    # ------------------------------------------------------------------ forward helpers
    def check_image(self, x: Tensor) -> None:
        """Check the input of ``forward``; say so if weights of ``init_cfg`` were not loaded.

        Raises:
            ValueError: If it is no (B, in_channels, H, W) tensor.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f'{type(self).__name__} expects images (B, {self.in_channels}, H, W), got a '
                f'tensor of shape {tuple(x.shape)}: set in_channels to the number of channels'
            )
        if self._not_loaded and not (x.is_meta or is_compiling()):
            self._say_not_loaded()

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Compute the maps of ``out_indices``.

        Args:
            x: Images (B, in_channels, H, W).

        Returns:
            For every stage i of ``out_indices`` a map (B, C_i, ceil(H / s), ceil(W / s)), s the
            stride of the stage.

        Raises:
            ValueError: If ``x`` has another number of dimensions or channels.
        """
        self.check_image(x)
        x = self.patch_embed(x)
        outs = []
        for i, stage in enumerate(self.stages):
            out, x = stage(x)
            if i in self.out_indices:
                outs.append(self.output(out, i))
        return tuple(outs)

    def output(self, x: Tensor, stage: int) -> Tensor:
        """Normalise a map (B, H, W, C) of a stage and return it as (B, C, H, W)."""
        return getattr(self, f'norm{stage}')(x).permute(0, 3, 1, 2).contiguous()

    def get_layer_depth(self, param_name: str, prefix: str = '') -> Tuple[int, int]:
        """Depth of a parameter, for layer-wise learning rates.

        The stem and embeddings are 0; blocks count from 1 over all stages; what a stage does
        before its blocks belongs to its first block, what it does after them to its last; all
        the rest (output norms, adapters) has the depth of the head.

        Args:
            param_name: Name of the parameter in the whole model.
            prefix: Prefix of the backbone in that name, with its dot.

        Returns:
            The depth and the number of layers, the head included.
        """
        depths = self.depths[: self.num_built_stages]
        num_layers = sum(depths) + 2
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        parts = param_name[len(prefix) :].split('.')
        if parts[0] in ('patch_embed', 'pos_embed', 'cls_token'):
            return 0, num_layers
        if parts[0] not in ('stages', 'layers'):
            return num_layers - 1, num_layers
        stage = int(parts[1])
        first = sum(depths[:stage]) + 1
        if parts[2] == 'blocks':
            return first + int(parts[3]), num_layers
        if parts[2] == 'downsample':
            return first + depths[stage] - 1, num_layers
        return first, num_layers
