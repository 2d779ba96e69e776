"""Feed-forward part of a transformer block."""

from typing import Optional

from torch import Tensor, nn

from .recompute import keep_input


class Mlp(nn.Module):
    """Linear, GELU, Linear on the last axis.

    Args:
        embed_dims: Input and output channels.
        hidden_dims: Hidden channels.
        drop_rate: Dropout after both layers.
    """

    def __init__(self, embed_dims: int, hidden_dims: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, hidden_dims)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dims, embed_dims)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor, norm: Optional[nn.Module] = None) -> Tensor:
        """Tensor (..., C) -> (..., C); a norm, if given, comes first."""
        hidden = self.fc1(x) if norm is None else keep_input(lambda x: self.fc1(norm(x)), x)
        if self.drop.p:
            return self.drop(self.fc2(self.drop(self.act(hidden))))
        return keep_input(lambda hidden: self.fc2(self.act(hidden)), hidden)
