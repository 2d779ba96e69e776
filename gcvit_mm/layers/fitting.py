"""Weights that are fitted to the model while they are loaded, by whatever route."""

from typing import Any, Dict

from torch import Tensor, nn


class Fitted(nn.Module):
    """Mixin of a module with one weight that a checkpoint may hold in another shape.

    ``load_state_dict``, mmengine's ``load_from`` and :func:`gcvit_mm.checkpoints.load_pretrained`
    all come through here. A weight that cannot be fitted is left as it is, so that whoever loads
    reports its shape.
    """

    fitted = 'weight'  # name of the parameter

    def fit(self, stored: Tensor) -> Tensor:
        """Return a stored weight in the shape of this module, or as it is if that cannot be."""
        raise NotImplementedError

    def fit_note(self, key: str, stored: Tensor) -> str:
        """Say what :meth:`fit` does to a weight of that key; equal notes are counted."""
        raise NotImplementedError

    def _load_from_state_dict(
        self, state_dict: Dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        key = prefix + self.fitted
        if key in state_dict:
            state_dict[key] = self.fit(state_dict[key])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
