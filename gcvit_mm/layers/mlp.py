"""Feed-forward part of a transformer block."""

from torch import Tensor, nn


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

    def forward(self, x: Tensor) -> Tensor:
        """Tensor (..., C) -> (..., C)."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))
