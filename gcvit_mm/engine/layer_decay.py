"""Learning rates that fall layer by layer towards the image, for fine-tuning."""

from typing import Any, Dict, List, Tuple

from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ..backbones.base import BaseBackbone
from ..errors import UserError
from .optim import CheckedOptimWrapperConstructor

# mmdet's and mmseg's names for what is called layer_decay_rate here, or is not needed.
FOREIGN = ('decay_rate', 'decay_type', 'num_layers')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(CheckedOptimWrapperConstructor):
    """Multiply the learning rate of a parameter by ``rate ** (layers between it and the head)``.

    For detectors, segmentors and classifiers alike: the depth is that of
    :meth:`gcvit_mm.backbones.base.BaseBackbone.get_layer_depth`, and all that is not in the
    backbone has the full rate. (mmdet's and mmseg's constructors know other backbones by name;
    mmpretrain's works for classifiers.)

    ``paramwise_cfg.layer_decay_rate`` is the factor a layer, in (0, 1]. All other keys of
    ``paramwise_cfg`` are those of mmengine's default constructor and keep their meaning:
    ``lr_mult`` of ``custom_keys`` comes on top. Keys that match no parameter are refused.
    Parameters with the same settings share a group; its ``layer`` names their depth.

    Raises:
        UserError: On building, if ``layer_decay_rate`` is missing or out of range, or an option
            of mmdet's constructor is given.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        foreign = [key for key in FOREIGN if key in self.paramwise_cfg]
        if foreign:
            raise UserError(
                f'optim_wrapper.paramwise_cfg.{foreign[0]}: the factor a layer is called '
                'layer_decay_rate here, and the number of layers is known: remove '
                f'{", ".join(foreign)}'
            )
        rate = self.paramwise_cfg.get('layer_decay_rate')
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise UserError(
                'optim_wrapper.paramwise_cfg.layer_decay_rate must be a number in (0, 1], '
                f'got {rate!r}'
            )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer wrapper.

        Raises:
            UserError: If a key of ``custom_keys`` matches nothing, or the model has no backbone
                of this package.
        """
        self.depths = layer_depths(getattr(model, 'module', model))
        return super().__call__(model)

    def add_params(
        self, params: List[dict], module: nn.Module, prefix: str = '', **kwargs: Any
    ) -> None:
        """Add the groups of a module and of all inside it to ``params``."""
        super().add_params(params, module, prefix=prefix, **kwargs)
        if prefix:
            return
        rate = self.paramwise_cfg['layer_decay_rate']
        groups: Dict[tuple, dict] = {}
        for single in params:  # one group a parameter so far
            (parameter,) = single.pop('params')
            depth, count = self.depths[id(parameter)]
            single['lr'] = single.get('lr', self.base_lr) * rate ** (count - 1 - depth)
            single['layer'] = depth
            key = tuple(sorted((k, repr(v)) for k, v in single.items()))
            groups.setdefault(key, dict(single, params=[]))['params'].append(parameter)
        params[:] = groups.values()


def layer_depths(model: nn.Module) -> Dict[int, Tuple[int, int]]:
    """Depth of every parameter and the number of layers, by ``id`` of the parameter.

    Args:
        model: A model with one backbone of this package, or such a backbone.

    Raises:
        UserError: If it has none, or more than one.
    """
    found = [(name, m) for name, m in model.named_modules() if isinstance(m, BaseBackbone)]
    if len(found) != 1:
        raise UserError(
            f'LayerDecayOptimWrapperConstructor needs a model with one backbone of gcvit_mm, and '
            f'this {type(model).__name__} has {len(found)}: use CheckedOptimWrapperConstructor'
        )
    ((name, backbone),) = found
    prefix = f'{name}.' if name else ''
    return {id(p): backbone.get_layer_depth(n, prefix) for n, p in model.named_parameters()}
