"""Convolutional parts: squeeze-excitation, the MB block of GC ViT, halving convolutions."""

import torch.nn.functional as F
from torch import Tensor, nn

from .fitting import Fitted
from .recompute import keep_input


def depthwise_conv(embed_dims: int, kernel_size: int, bias: bool = True) -> nn.Conv2d:
    """Build a depthwise convolution that keeps the size of the map."""
    return nn.Conv2d(
        embed_dims, embed_dims, kernel_size, padding=kernel_size // 2, groups=embed_dims, bias=bias
    )


def convolve(conv: nn.Module, x: Tensor) -> Tensor:
    """Run a convolution on a channels-last map (B, H, W, C)."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ImageConv(Fitted, nn.Conv2d):
    """Convolution of the image, which fits weights made for another number of channels.

    They are averaged over the stored channels and repeated, scaled so that an image whose
    channels are all equal gives the same response.
    """

    def fit(self, stored: Tensor) -> Tensor:
        """Weight (C', C, k, k) of another C -> that of this convolution."""
        if stored.ndim != 4 or stored.shape[1] == self.in_channels:
            return stored
        mean = stored.mean(1, keepdim=True) * stored.shape[1] / self.in_channels
        return mean.repeat(1, self.in_channels, 1, 1)

    def fit_note(self, key: str, stored: Tensor) -> str:
        """Say what :meth:`fit` does."""
        return f'{key} averaged over {stored.shape[1]} channels and repeated for {self.in_channels}'


class SqueezeExcite(nn.Module):
    """Channel gate from the mean over the map (no biases, GELU inside).

    Args:
        embed_dims: Channels.
        ratio: Hidden channels are ``embed_dims // ratio``.
    """

    def __init__(self, embed_dims: int, ratio: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, embed_dims // ratio, bias=False)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(embed_dims // ratio, embed_dims, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of a map (B, C, H, W)."""
        # the gradient of a mean has the order of its axes: that of a channels-last map
        mean = x.permute(0, 2, 3, 1).mean((1, 2))
        gate = self.fc2(self.act(self.fc1(mean))).sigmoid()
        return x * gate[:, :, None, None]


class MBConv(nn.Module):
    """Depthwise 3x3, GELU, squeeze-excitation, pointwise, residual; no norm, no expansion.

    Called Fused-MBConv in the GC ViT paper (v1, section 2.1).

    Args:
        embed_dims: Channels.
    """

    def __init__(self, embed_dims: int) -> None:
        super().__init__()
        self.dwconv = depthwise_conv(embed_dims, 3, bias=False)
        self.act = nn.GELU()
        self.se = SqueezeExcite(embed_dims)
        self.pwconv = nn.Conv2d(embed_dims, embed_dims, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) -> (B, C, H, W)."""
        return x + keep_input(lambda x: self.pwconv(self.se(self.act(x))), self.dwconv(x))


class EvenConv(nn.Conv2d):
    """Convolution of 2x2 patches; an odd side is zero-padded at its end."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) -> (B, C', ceil(H / 2), ceil(W / 2))."""
        return super().forward(F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2)))


class EvenImageConv(ImageConv, EvenConv):
    """An :class:`EvenConv` of the image."""


def halving_max_pool(x: Tensor) -> Tensor:
    """3x3 max pooling of stride 2: map (B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2)).

    Padded here and not by the pooling, whose rounding would tie exported and compiled graphs to
    even or to odd sides.
    """
    height, width = x.shape[2:]
    bottom, right = (height + 1) // 2 * 2 - height, (width + 1) // 2 * 2 - width
    return F.max_pool2d(F.pad(x, (1, right, 1, bottom), value=float('-inf')), 3, stride=2)


def halving_conv(
    in_dims: int, out_dims: int, overlap: bool, bias: bool, of_image: bool = False
) -> nn.Conv2d:
    """Build a convolution that maps a side n to ceil(n / 2), whatever its parity.

    Args:
        in_dims: Input channels.
        out_dims: Output channels.
        overlap: 3x3 with stride 2, or 2x2 patches side by side.
        bias: Whether it has a bias.
        of_image: Its input is the image: fit weights made for other channels when loaded.
    """
    if overlap:
        cls = ImageConv if of_image else nn.Conv2d
        return cls(in_dims, out_dims, 3, stride=2, padding=1, bias=bias)
    cls = EvenImageConv if of_image else EvenConv
    return cls(in_dims, out_dims, 2, stride=2, bias=bias)
