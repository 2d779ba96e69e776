"""DeepSpeed's ZeRO that resumes: a strategy for mmengine's ``FlexibleRunner``.

It is named by its path in configs, so that nothing imports DeepSpeed unasked.
"""

import contextlib
import copy
import itertools
import os.path as osp
from importlib.util import find_spec
from typing import Any, Iterator, List, Tuple

import torch
from mmengine._strategy import DeepSpeedStrategy, SingleDeviceStrategy
from mmengine._strategy.deepspeed import DeepSpeedOptimWrapper
from torch import Tensor, nn

from ..errors import CheckpointError, UserError
from .strategies import FullyShardedStrategy, gathered


class ZeroStrategy(DeepSpeedStrategy):
    """mmengine's ``DeepSpeedStrategy`` for stages 1 and 2, with checkpoints that are whole files.

    Weights and moments are in float32 there, as one process without this strategy writes them: any
    number of processes resumes from them, with it or without.

    Args:
        kwargs: Those of ``DeepSpeedStrategy``; ``exclude_frozen_parameters`` changes nothing.

    Raises:
        UserError: If DeepSpeed is not installed, or the settings are none that can be resumed.
    """

    save_checkpoint = FullyShardedStrategy.save_checkpoint
    resume = SingleDeviceStrategy.resume

    def __init__(self, **kwargs: Any) -> None:
        if find_spec('deepspeed') is None:
            raise UserError(
                'ZeroStrategy needs DeepSpeed, which is not installed: pip install deepspeed, or '
                "take configs/strategies/deepspeed.py's runner_type and strategy out"
            )
        super().__init__(**kwargs)
        self.weights: List[List[nn.Parameter]] = []  # of each group of the optimizer
        check_zero(self.config.get('zero_optimization') or {})

    def build_optim_wrapper(self, *args: Any, **kwargs: Any) -> Any:
        """Build an optimizer, and note its weights, which DeepSpeed replaces by parts of them.

        Raises:
            UserError: If its wrapper is not the one that DeepSpeed needs.
        """
        optim_wrapper = super().build_optim_wrapper(*args, **kwargs)
        if not isinstance(optim_wrapper, DeepSpeedOptimWrapper):
            raise UserError(
                f'optim_wrapper.type is {type(optim_wrapper).__name__}, but ZeroStrategy takes '
                'DeepSpeedOptimWrapper: set it, see docs/scale_out.md'
            )
        self.weights = [list(group['params']) for group in optim_wrapper.optimizer.param_groups]
        # mmengine's runner says so to a strategy of mmengine's own name
        size = self.dispatch_kwargs.get('train_micro_batch_size_per_gpu', 1)
        self.config.setdefault('train_micro_batch_size_per_gpu', size)
        return optim_wrapper

    def load_checkpoint(self, filename: str, **kwargs: Any) -> dict:
        """Load whole weights; hooks that judge the checkpoint see a whole optimizer.

        Raises:
            CheckpointError: If it is a folder.
        """
        if osp.isdir(filename):
            raise CheckpointError(
                f'checkpoint {filename} is a folder of DeepSpeed: name the file of weights in it, '
                'mp_rank_00_model_states.pt'
            )
        kwargs['map_location'] = 'cpu'  # a process needs a part of the moments
        with self.whole_optimizer():
            return SingleDeviceStrategy.load_checkpoint(self, filename, **kwargs)

    @contextlib.contextmanager
    def whole_optimizer(self) -> Iterator[None]:
        """Let the groups of the optimizer have the weights that they had before DeepSpeed came."""
        groups = self.optim_wrapper.optimizer.param_groups
        parts = [group['params'] for group in groups]
        for group, weights in zip(groups, self.weights):
            group['params'] = weights
        try:
            yield
        finally:
            for group, part in zip(groups, parts):
                group['params'] = part

    def groups(self) -> Iterator[Tuple[dict, Tensor, List[nn.Parameter]]]:
        """Settings of each group, the part of its weights that this process keeps, its weights.

        DeepSpeed looks for the moments of weights itself, but only those of the first group.
        """
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        optimizer = self.optim_wrapper.optimizer
        for group, weights in zip(optimizer.param_groups, self.weights):
            (part,) = group['params']
            trained = [weight for weight in weights if weight.requires_grad]
            lazy_init_hp_params_optimizer_state(trained, part, optimizer.state)
            yield group, part, weights

    def model_state_dict(self) -> dict:
        """Whole weights in float32; every process has to call it, the first one gets them."""
        from deepspeed.utils import safe_get_full_fp32_param

        found = {}
        for name, value in self.model.module.state_dict(keep_vars=True).items():
            whole = safe_get_full_fp32_param(value)  # None where nothing is trained
            whole = gathered(value if whole is None else whole)
            half = whole.dtype in (torch.bfloat16, torch.float16)
            found[name] = whole.float() if half else whole
        return found

    def load_model_state_dict(self, state_dict: dict, **kwargs: Any) -> None:
        """Load whole weights; every process has them, and keeps its part in float32."""
        from deepspeed.utils import safe_set_full_fp32_param

        super().load_model_state_dict(state_dict, **kwargs)
        for name, weight in self.model.module.named_parameters():
            if name in state_dict:
                safe_set_full_fp32_param(weight, state_dict[name])

    def optim_state_dict(self) -> dict:
        """The state that one optimizer of all weights has; see :meth:`model_state_dict`."""
        from deepspeed.utils import safe_get_full_optimizer_state

        states, groups, numbers = {}, [], itertools.count()
        for group, part, weights in self.groups():
            groups.append({**group, 'params': [next(numbers) for _ in weights]})
            state = self.optim_wrapper.optimizer.state[part]
            for number, weight in zip(groups[-1]['params'], weights):
                if state and weight.requires_grad:
                    states[number] = {
                        key: gathered(safe_get_full_optimizer_state(weight, key))
                        if is_moment(key, value)
                        else copy.deepcopy(value)  # a count that weights shared would rise for each
                        for key, value in state.items()
                    }
        return dict(state=states, param_groups=groups, **super().optim_state_dict())

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load the state of one optimizer of all weights; every process keeps its part."""
        from deepspeed.utils import safe_set_full_optimizer_state

        super().load_optim_state_dict(state_dict)
        states, groups = state_dict['state'], state_dict['param_groups']
        own: dict = dict(state={}, param_groups=[])
        for i, (group, (_, part, _)) in enumerate(zip(groups, self.groups())):
            known: dict = next((states[n] for n in group['params'] if n in states), {})
            own['param_groups'].append({**group, 'params': [i]})
            own['state'][i] = {
                key: torch.zeros_like(part) if is_moment(key, value) else value
                for key, value in known.items()
            }
        self.optim_wrapper.optimizer.optimizer.load_state_dict(own)  # torch's, of the parts
        for group, (_, _, weights) in zip(groups, self.groups()):
            for number, weight in zip(group['params'], weights):
                for key, value in states.get(number, {}).items():
                    if is_moment(key, value):
                        safe_set_full_optimizer_state(weight, value, key)


def check_zero(zero: dict) -> None:
    """Check settings of ZeRO.

    Raises:
        UserError: If what it divides cannot be put together.
    """
    stage = zero.get('stage')
    if stage not in (1, 2):
        raise UserError(
            f'strategy.zero_optimization.stage is {stage}, but ZeroStrategy has 1 and 2: set one '
            'of them, or take configs/strategies/fsdp.py, which divides weights as well'
        )
    if zero.get('round_robin_gradients'):  # seen with DeepSpeed 0.16.9
        raise UserError(
            'strategy.zero_optimization.round_robin_gradients: DeepSpeed gives wrong weights to '
            'save with it: take it out'
        )


def is_moment(key: str, value: Any) -> bool:
    """Tell whether the state of an optimizer has a number for each of its weights there."""
    return isinstance(value, Tensor) and key != 'step'
