"""Necks for classification."""

from typing import Optional, Sequence, Tuple

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from .backbones.base import InitCfg
from .backbones.group_propagation import Grouping


@MODELS.register_module()
class GroupNeck(BaseModule):
    """Pool a map by one group token that attends to it, as GPViT-L1 and L2 do for classification.

    Args:
        embed_dims: Channels C of the map.
        num_heads: Attention heads.
        norm_cfg: Config of the norm of the token; LN with eps 1e-5 if not given.
        init_cfg: Initialisation of mmengine.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int = 6,
        norm_cfg: Optional[dict] = None,
        init_cfg: InitCfg = None,
    ) -> None:
        super().__init__(init_cfg)
        self.group_token = nn.Parameter(torch.zeros(1, 1, embed_dims))
        norm_cfg = norm_cfg or dict(type='LN', eps=1e-5)
        self.attn = Grouping(embed_dims, num_heads, norm_cfg, bias=False)
        self.attn.norm_key = nn.Identity()  # the backbone has normalised its map

    def forward(self, inputs: Sequence[Tensor]) -> Tuple[Tensor]:
        """Maps (B, C, H, W), of which the last counts -> one tensor (B, C)."""
        x = inputs[-1].flatten(2).transpose(1, 2)
        return (self.attn(self.group_token, x)[:, 0],)
