"""Sharded training that resumes: a strategy for mmengine's ``FlexibleRunner``.

It is named by its path in configs, so that nothing imports mmengine's strategies unasked.
"""

from typing import Any, Callable, Dict, Optional, Tuple, Type

import torch
from mmengine._strategy import DDPStrategy
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.runner.checkpoint import save_checkpoint
from mmengine.utils import apply_to
from torch import Tensor, nn

from ..errors import UserError
from .sharding import BLOCKS, own_moments, part_of


class FullyShardedStrategy(DDPStrategy):
    """Every process keeps a part of weights, gradients and optimizer states (``fully_shard``).

    Weights are gathered block by block. Checkpoints are whole, as one process without this
    strategy writes them: any number of processes resumes from them, with it or without. Needs
    torch 2.6.

    Args:
        units: Modules that are gathered one by one; the blocks of all families by default. What
            is in none of them is one more unit.
        param_dtype: Type that a forward and backward pass computes in, e.g. 'bfloat16'; None for
            that of the weights.
        reduce_dtype: Type that gradients are summed in; None for ``param_dtype``.
        reshard_after_forward: Whether weights are gathered again for the backward pass, which
            needs less memory and more traffic.
        kwargs: Those of ``DDPStrategy``.
    """

    def __init__(
        self,
        *,
        units: Tuple[Type[nn.Module], ...] = BLOCKS,
        param_dtype: Optional[str] = None,
        reduce_dtype: Optional[str] = None,
        reshard_after_forward: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.param_dtype = getattr(torch, param_dtype) if param_dtype else None
        self.reduce_dtype = getattr(torch, reduce_dtype) if reduce_dtype else None
        self.reshard_after_forward = reshard_after_forward

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        """Shard a model in place.

        Raises:
            UserError: If torch is too old.
        """
        try:
            from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
        except ImportError as error:
            raise UserError(
                f'FullyShardedStrategy needs torch 2.6 or later, this is {torch.__version__}: '
                "update it, or take configs/strategies/fsdp.py's runner_type and strategy out"
            ) from error
        model = self.convert_model(model).to(get_device())
        for parameter in model.parameters():
            parameter.data = parameter.data.contiguous()  # channels-last ones cannot be sharded
        options: Dict[str, Any] = dict(
            mp_policy=MixedPrecisionPolicy(self.param_dtype, self.reduce_dtype),
            reshard_after_forward=self.reshard_after_forward,
        )
        units = [module for module in model.modules() if isinstance(module, self.units)]
        for module in (*units, model):
            fully_shard(module, **options)
        self.logger.info(f'fully_shard: {len(units)} blocks and the rest are gathered one by one')
        return model

    def save_checkpoint(
        self,
        filename: str,
        *,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        extra_ckpt: Optional[dict] = None,
        callback: Optional[Callable] = None,
    ) -> None:
        """Save a checkpoint; every process has to call it, the first one writes."""
        content = {'state_dict': self.model_state_dict(), **(extra_ckpt or {})}
        content.setdefault('meta', {}).update(seed=self.seed)
        if save_optimizer:
            content['optimizer'] = self.optim_state_dict()
        if save_param_scheduler and hasattr(self, 'param_schedulers'):
            content['param_schedulers'] = self.scheduler_state_dict()
        if callback is not None:
            callback(content)
        if is_main_process():
            save_checkpoint(content, filename, backend_args=dict(backend='whole_files'))

    def model_state_dict(self) -> dict:
        """Whole weights, see :func:`gathered`."""
        return gathered(self.model.state_dict())

    def optim_state_dict(self) -> dict:
        """The state of an optimizer of all weights, see :func:`gathered`."""
        return gathered(self.optim_wrapper.state_dict())

    def load_model_state_dict(
        self, state_dict: dict, *, strict: bool = False, revise_keys: Any = None
    ) -> None:
        """Load whole weights; every process has them, and keeps its part."""
        own = self.model.state_dict()
        parts = {key: part_of(own[key], v) for key, v in state_dict.items() if key in own}
        self.model.load_state_dict(parts, strict=strict)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load the whole state of an optimizer; every process keeps its part."""
        own_moments(self.optim_wrapper.optimizer, state_dict)
        self.optim_wrapper.load_state_dict(state_dict)


def gathered(state: Any) -> Any:
    """Whole tensors on the CPU in the place of sharded ones; in the first process only."""

    def whole(value: Any) -> Any:
        value = value.detach()
        value = value.full_tensor() if hasattr(value, 'full_tensor') else value
        return value.cpu() if is_main_process() else value.new_empty(0)

    return apply_to(state, lambda value: isinstance(value, Tensor), whole)
