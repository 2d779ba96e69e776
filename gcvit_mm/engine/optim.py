"""Parameter groups whose rules are known to apply."""

import torch.nn as nn
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS

from ..errors import UserError


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class CheckedOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's default constructor, refusing ``custom_keys`` that match no parameter.

    A misspelt key (``rpb`` instead of ``relative_position_bias_table``, as in the released GC
    ViT configs) otherwise passes without a word and the parameters are decayed after all.
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer wrapper.

        Raises:
            UserError: If a key of ``paramwise_cfg.custom_keys`` is part of no parameter name.
        """
        names = [name for name, _ in model.named_parameters()]
        for key in self.paramwise_cfg.get('custom_keys', {}):
            if not any(key in name for name in names):
                raise UserError(
                    f"optim_wrapper.paramwise_cfg.custom_keys: '{key}' matches no parameter of "
                    'the model: correct it, or remove it by setting it to _delete_=True'
                )
        return super().__call__(model)
