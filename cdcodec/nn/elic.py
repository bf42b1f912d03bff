"""Blocks of which the authors of DiffEIC and RDEIC build their transforms.

They are those of ELIC (He et al. 2022, arXiv:2203.10886, figure 1) and of CompressAI, and the
spatial feature transform of Song et al. 2021 (arXiv:2108.09551, section 3.2), without any
normalisation. Slopes and orders of activations are the authors' own: published weights depend on
them.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from cdcodec.nn.blocks import conv

INNER_LEAK = 0.01  # slope below zero of the leaky ReLUs inside residual blocks
OUTER_LEAK = 0.1  # of those that end a change of resolution
SFT_LEAK = 0.2  # of those in and after a spatial feature transform


class ResidualBlock(nn.Module):
    """skip(x) + act(conv(act(conv(x)))); skip is a pointwise convolution where channels change."""

    def __init__(self, in_channels: int, out_channels: int | None = None) -> None:
        super().__init__()
        out_channels = out_channels or in_channels
        self.conv1 = conv(in_channels, out_channels)
        self.conv2 = conv(out_channels, out_channels)
        self.skip: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.skip = conv(in_channels, out_channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, C_in, H, W] to [B, C_out, H, W]."""
        h = F.leaky_relu(self.conv1(x), INNER_LEAK)
        out: Tensor = self.skip(x) + F.leaky_relu(self.conv2(h), INNER_LEAK)
        return out


class Bottleneck(nn.Module):
    """x + conv1(gelu(conv3(gelu(conv1(x))))), the middle at half the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv(channels, channels // 2, kernel=1),
            nn.GELU(),
            conv(channels // 2, channels // 2),
            nn.GELU(),
            conv(channels // 2, channels, kernel=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, C, H, W] to the same shape."""
        refined: Tensor = self.layers(x)
        return x + refined


class DownBlock(nn.Module):
    """A residual block whose first convolution, and whose skip, have stride 2."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, out_channels, stride=2)
        self.conv2 = conv(out_channels, out_channels)
        self.skip = conv(in_channels, out_channels, kernel=1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, C_in, H, W], H and W even, to [B, C_out, H/2, W/2]."""
        h = F.leaky_relu(self.conv1(x), INNER_LEAK)
        out: Tensor = self.skip(x) + F.leaky_relu(self.conv2(h), OUTER_LEAK)
        return out


class UpBlock(nn.Module):
    """A residual block that doubles height and width, on both ways by a pixel shuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.subpixel = conv(channels, 4 * channels, kernel=1)
        self.conv = conv(channels, channels)
        self.skip = conv(channels, 4 * channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, C, H, W] to [B, C, 2H, 2W]."""
        h = F.leaky_relu(F.pixel_shuffle(self.subpixel(x), 2), INNER_LEAK)
        h = F.leaky_relu(self.conv(h), OUTER_LEAK)
        return F.pixel_shuffle(self.skip(x), 2) + h


class FeatureTransform(nn.Module):
    """x (1 + gamma(s)) + beta(s): a spatial feature transform by a side feature s."""

    def __init__(self, channels: int, side: int, hidden: int) -> None:
        super().__init__()
        self.shared = conv(side, hidden)
        self.gamma = conv(hidden, channels)
        self.beta = conv(hidden, channels)

    def forward(self, x: Tensor, side: Tensor) -> Tensor:
        """Map x [B, C, H, W] to the same shape; side [B, S, h, w] is averaged to its extent."""
        fitted = F.adaptive_avg_pool2d(side, (x.shape[-2], x.shape[-1]))
        h = F.leaky_relu(self.shared(fitted), SFT_LEAK)
        out: Tensor = x * (1 + self.gamma(h)) + self.beta(h)
        return out


class FeatureTransformBlock(nn.Module):
    """A residual block with a feature transform before each of its activations."""

    def __init__(self, channels: int, side: int, hidden: int) -> None:
        super().__init__()
        self.transform1 = FeatureTransform(channels, side, hidden)
        self.conv1 = conv(channels, channels)
        self.transform2 = FeatureTransform(channels, side, hidden)
        self.conv2 = conv(channels, channels)

    def forward(self, x: Tensor, side: Tensor) -> Tensor:
        """Map x [B, C, H, W] to the same shape; see FeatureTransform for side."""
        h = self.conv1(F.leaky_relu(self.transform1(x, side), SFT_LEAK))
        refined: Tensor = self.conv2(F.leaky_relu(self.transform2(h, side), SFT_LEAK))
        return x + refined
