"""Convolutional blocks without normalisation, for transforms and denoisers that run on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MODULATION_UNIT = 10.0
"""Modulations are trained in this unit: they must set noise levels apart before the convolutions,
which all levels share, give in to the average of what these want."""


def conv(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the spatial extent, but for its stride."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2)


class ResidualBlock(nn.Module):
    """x + conv(act(film(conv(act(x))))), with an optional modulation by a condition vector.

    Normalisation is left out on purpose: it destroys the absolute scale that a transform codec
    codes, and it costs memory bandwidth, the scarce good on a CPU.
    """

    def __init__(self, channels: int, condition: int = 0) -> None:
        super().__init__()
        self.conv1 = conv(channels, channels)
        self.conv2 = conv(channels, channels)
        self.film = nn.Linear(condition, 2 * channels) if condition else None
        with torch.no_grad():
            self.conv2.weight.mul_(0.2)  # nearly the identity to begin with
        if self.film is not None:
            nn.init.zeros_(self.film.weight)
            nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map x [B, C, H, W] to the same shape; condition is [B, D] when the block has one."""
        h = self.conv1(F.leaky_relu(x, 0.1))
        if self.film is not None:
            assert condition is not None
            modulation = MODULATION_UNIT * self.film(condition)
            scale, shift = modulation[:, :, None, None].chunk(2, 1)
            h = h * (1 + scale) + shift
        refined: Tensor = self.conv2(F.leaky_relu(h, 0.1))
        return x + refined


class Stack(nn.Module):
    """Residual blocks in a row that share one condition."""

    def __init__(self, channels: int, depth: int, condition: int = 0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(channels, condition) for _ in range(depth))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map x [B, C, H, W] to the same shape."""
        for block in self.blocks:
            x = block(x, condition)
        return x


class Upsample(nn.Module):
    """Pointwise convolution and pixel shuffle: twice the height and width."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = conv(in_channels, 4 * out_channels, kernel=1)
        # The four phases start equal: a checkerboard would have to be learned.
        with torch.no_grad():
            for parameter in self.conv.parameters():
                parameter.copy_(parameter[::4].repeat_interleave(4, 0))

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, C_in, H, W] to [B, C_out, 2H, 2W]."""
        return F.pixel_shuffle(self.conv(x), 2)


class Embedding(nn.Module):
    """A scalar in 0..1 to a condition vector."""

    def __init__(self, condition: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(9, condition), nn.SiLU(), nn.Linear(condition, condition)
        )

    def forward(self, u: Tensor) -> Tensor:
        """Map u [B] to [B, D]; four octaves of sine and cosine let it tell near values apart."""
        phase = u[:, None] * torch.pi * 2.0 ** torch.arange(4, device=u.device)
        features = torch.cat([u[:, None], phase.sin(), phase.cos()], 1)
        condition: Tensor = self.layers(features)
        return condition


class RoundThrough(torch.autograd.Function):
    """Rounding whose gradient is that of the identity (straight-through estimator)."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        """Round to the nearest integer."""
        return torch.round(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        """Pass the gradient on."""
        return gradient


def round_through(x: Tensor) -> Tensor:
    """Round x, of any shape, and let gradients pass."""
    return RoundThrough.apply(x)  # type: ignore[no-any-return, no-untyped-call]
