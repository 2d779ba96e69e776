"""The residual block of all families, and its norm."""

from typing import Any, Optional

import torch
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from .drop_path import DropPath
from .mlp import Mlp


def build_channels_last_norm(norm_cfg: dict, embed_dims: int) -> nn.Module:
    """Build a norm over the last axis.

    Args:
        norm_cfg: Config such as ``dict(type='LN', eps=1e-5)``.
        embed_dims: Channels.

    Raises:
        ValueError: If the norm does not act on the last axis (BN, GN, ...).
    """
    norm = build_norm_layer(norm_cfg, embed_dims)[1]
    if not hasattr(norm, 'normalized_shape'):
        raise ValueError(
            f"norm_cfg type '{norm_cfg['type']}' does not normalise the last axis of "
            "channels-last maps: use 'LN' or another norm with normalized_shape"
        )
    return norm


class Block(nn.Module):
    """Attention and MLP, each after a norm and with a residual.

    Args:
        attn: Attention on maps (B, H, W, C); may take more arguments.
        embed_dims: Channels C.
        mlp_ratio: Hidden channels of the MLP over C.
        norm_cfg: Config of both norms.
        drop_path: Probability of dropping a branch, for each sample.
        drop_rate: Dropout inside the MLP.
        layer_scale: Initial value of the factors on both branches; ``None`` for no factors.
    """

    def __init__(
        self,
        attn: nn.Module,
        embed_dims: int,
        mlp_ratio: float,
        norm_cfg: dict,
        drop_path: float = 0.0,
        drop_rate: float = 0.0,
        layer_scale: Optional[float] = None,
    ) -> None:
        super().__init__()
        self.norm1 = build_channels_last_norm(norm_cfg, embed_dims)
        self.attn = attn
        self.norm2 = build_channels_last_norm(norm_cfg, embed_dims)
        self.mlp = Mlp(embed_dims, int(embed_dims * mlp_ratio), drop_rate)
        self.drop_path = DropPath(drop_path)
        for name in ('gamma1', 'gamma2'):
            gamma = None if layer_scale is None else torch.full((embed_dims,), float(layer_scale))
            self.register_parameter(name, None if gamma is None else nn.Parameter(gamma))

    def forward(self, x: Tensor, *attn_args: Any) -> Tensor:
        """Map (B, H, W, C), and what else the attention takes -> (B, H, W, C)."""
        x = self.drop_path.add(x, self._attend, *attn_args)
        return self.drop_path.add(x, self._expand)

    def _attend(self, x: Tensor, *args: Any) -> Tensor:
        attended = self.attn(self.norm1(x), *args)
        return attended if self.gamma1 is None else self.gamma1 * attended

    def _expand(self, x: Tensor) -> Tensor:
        expanded = self.mlp(x, self.norm2)
        return expanded if self.gamma2 is None else self.gamma2 * expanded
