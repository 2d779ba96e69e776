"""Parameter groups whose rules are known to apply."""

import difflib

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ..backbones.base import BaseBackbone
from ..errors import UserError


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class CheckedOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's default constructor, refusing ``custom_keys`` that match no parameter.

    A misspelt key (``rpb`` instead of ``relative_position_bias_table``, as in the released GC
    ViT configs) otherwise passes without a word and the parameters are decayed after all. A key
    of a part that an ablation has switched off is none: its rule has nothing to do. An empty rule
    (what ``_delete_=True`` leaves) is none either.
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer wrapper.

        Raises:
            UserError: If a key of ``paramwise_cfg.custom_keys`` is part of no parameter name.
        """
        rules = self.paramwise_cfg.get('custom_keys', {})
        for key in [key for key, rule in rules.items() if not rule]:
            del rules[key]
        refuse_unknown(model, list(rules))
        return super().__call__(model)


def refuse_unknown(model: nn.Module, keys: list) -> None:
    """Raise for the first key that is part of no name of a parameter, whatever is switched off."""
    names = [name for name, _ in model.named_parameters()]
    unknown = [key for key in keys if not any(key in name for name in names)]
    names += possible_names(model) if unknown else []
    for key in unknown:
        if not any(key in name for name in names):
            parts = {part for name in names for part in name.split('.')}
            close = difflib.get_close_matches(key.strip('.'), parts, n=1)
            meant = f"did you mean '{close[0]}'? " if close else ''
            raise UserError(
                f"optim_wrapper.paramwise_cfg.custom_keys: '{key}' matches no parameter of the "
                f"model: {meant}correct it, or take the rule away: custom_keys={{'{key}': "
                'dict(_delete_=True)}'
            )


def possible_names(model: nn.Module) -> list:
    """Names that parameters of the backbones would have with nothing of them switched off."""
    names = []
    for prefix, module in model.named_modules():
        if isinstance(module, BaseBackbone):
            with torch.device('meta'):
                whole: nn.Module = type(module)()  # type: ignore[call-arg]
            names += [f'{prefix}.{name}' for name, _ in whole.named_parameters()]
    return names
