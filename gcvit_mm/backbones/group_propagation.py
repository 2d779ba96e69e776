"""Group propagation, written from Section 3.1 of the GPViT paper (arXiv 2212.06795).

Learned group tokens collect from all tokens, talk to each other, and hand back.
"""

import torch
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from ..layers import (
    Block,
    DropPath,
    GlobalAttention,
    Mlp,
    build_channels_last_norm,
    check_heads,
    convolve,
    depthwise_conv,
    join_heads,
    split_heads,
)
from ..layers.attention import attention

PROPAGATIONS = ('mixer', 'attention', 'none')


class Grouping(nn.Module):
    """Learned group tokens collect from all tokens (Equation 2).

    Queries are the group tokens and values the normalised tokens, neither projected.

    Args:
        embed_dims: Channels C.
        num_heads: Attention heads.
        norm_cfg: Config of both norms.
        bias: Give the projection of the keys a bias.
    """

    def __init__(self, embed_dims: int, num_heads: int, norm_cfg: dict, bias: bool = True) -> None:
        super().__init__()
        check_heads(embed_dims, num_heads)
        self.num_heads = num_heads
        self.norm_query = build_channels_last_norm(norm_cfg, embed_dims)
        self.norm_key = build_channels_last_norm(norm_cfg, embed_dims)
        self.k = nn.Linear(embed_dims, embed_dims, bias=bias)

    def forward(self, groups: Tensor, x: Tensor) -> Tensor:
        """Group tokens (1, M, C), tokens (B, N, C) -> group tokens (B, M, C)."""
        groups, x = self.norm_query(groups).expand(x.shape[0], -1, -1), self.norm_key(x)
        q, k, v = (split_heads(t, self.num_heads) for t in (groups, self.k(x), x))
        return join_heads(attention(q, k, v))


class Mixer(nn.Module):
    """An MLP across the group tokens, then one across their channels (Equations 3 and 4).

    Args:
        embed_dims: Channels C.
        num_groups: Group tokens M.
        mlp_ratio: Hidden channels of the second MLP over C; those of the first are C / 2.
        norm_cfg: Config of both norms.
        drop_path: Probability of dropping a branch.
        drop_rate: Dropout inside the MLPs.
    """

    def __init__(
        self,
        embed_dims: int,
        num_groups: int,
        mlp_ratio: float,
        norm_cfg: dict,
        drop_path: float,
        drop_rate: float,
    ) -> None:
        super().__init__()
        self.norm1 = build_channels_last_norm(norm_cfg, embed_dims)
        self.patch_mixer = Mlp(num_groups, embed_dims // 2, drop_rate)
        self.norm2 = build_channels_last_norm(norm_cfg, embed_dims)
        self.channel_mixer = Mlp(embed_dims, int(embed_dims * mlp_ratio), drop_rate)
        self.drop_path = DropPath(drop_path)

    def forward(self, groups: Tensor) -> Tensor:
        """Group tokens (B, M, C) -> (B, M, C)."""
        mixed = self.patch_mixer(self.norm1(groups).transpose(1, 2)).transpose(1, 2)
        groups = groups + self.drop_path(mixed)
        return groups + self.drop_path(self.channel_mixer(self.norm2(groups)))


class Ungrouping(nn.Module):
    """All tokens collect from the group tokens (Equation 5).

    Args:
        embed_dims: Channels C.
        num_heads: Attention heads.
        norm_cfg: Config of both norms.
    """

    def __init__(self, embed_dims: int, num_heads: int, norm_cfg: dict) -> None:
        super().__init__()
        check_heads(embed_dims, num_heads)
        self.num_heads = num_heads
        self.norm_query = build_channels_last_norm(norm_cfg, embed_dims)
        self.norm_key = build_channels_last_norm(norm_cfg, embed_dims)
        self.q = nn.Linear(embed_dims, embed_dims)
        self.k = nn.Linear(embed_dims, embed_dims)
        self.v = nn.Linear(embed_dims, embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor, groups: Tensor) -> Tensor:
        """Tokens (B, N, C), group tokens (B, M, C) -> tokens (B, N, C)."""
        x, groups = self.norm_query(x), self.norm_key(groups)
        projected = self.q(x), self.k(groups), self.v(groups)
        q, k, v = (split_heads(t, self.num_heads) for t in projected)
        return self.proj(join_heads(attention(q, k, v)))


class GPBlock(nn.Module):
    """Group propagation: grouping, propagation among the groups, ungrouping (Section 3.1).

    Args:
        embed_dims: Channels C.
        num_groups: Group tokens M.
        num_heads: Heads of grouping and ungrouping.
        mlp_ratio: Hidden channels of the MLPs over C.
        propagation: 'mixer', 'attention' (a pre-norm transformer block) or 'none' (Table 9).
        norm_cfg: Config of the norms of tokens.
        conv_norm_cfg: Config of the norm behind the convolution.
        drop_path: Probability of dropping a branch.
        drop_rate: Dropout inside the MLPs.
    """

    def __init__(
        self,
        embed_dims: int,
        num_groups: int,
        num_heads: int,
        mlp_ratio: float,
        propagation: str,
        norm_cfg: dict,
        conv_norm_cfg: dict,
        drop_path: float,
        drop_rate: float,
    ) -> None:
        super().__init__()
        self.group_token = nn.Parameter(torch.empty(1, num_groups, embed_dims))
        trunc_normal_(self.group_token, std=0.02)
        self.group_attn = Grouping(embed_dims, num_heads, norm_cfg)
        self.propagation: nn.Module = nn.Identity()
        if propagation == 'mixer':
            self.propagation = Mixer(
                embed_dims,
                num_groups,
                mlp_ratio,
                norm_cfg,
                drop_path=drop_path,
                drop_rate=drop_rate,
            )
        elif propagation == 'attention':
            attn = GlobalAttention(embed_dims, num_heads)
            self.propagation = Block(
                attn, embed_dims, mlp_ratio, norm_cfg, drop_path=drop_path, drop_rate=drop_rate
            )
        self.ungroup_attn = Ungrouping(embed_dims, num_heads, norm_cfg)
        self.fuse = nn.Linear(2 * embed_dims, embed_dims)
        self.norm2 = build_channels_last_norm(norm_cfg, embed_dims)
        self.mlp = Mlp(embed_dims, int(embed_dims * mlp_ratio), drop_rate)
        self.drop_path = DropPath(drop_path)
        self.conv = nn.Sequential(
            depthwise_conv(embed_dims, 3, bias=False),
            build_norm_layer(conv_norm_cfg, embed_dims)[1],
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) -> (B, H, W, C), nowhere negative."""
        tokens = x.flatten(1, 2)
        groups = self.group_attn(self.group_token, tokens)
        handed = self.ungroup_attn(tokens, self.propagation(groups))
        tokens = self.fuse(torch.cat([tokens, self.drop_path(handed)], -1))
        tokens = self.drop_path.add(tokens, lambda x: self.mlp(x, self.norm2))
        return convolve(self.conv, tokens.view(x.shape))
