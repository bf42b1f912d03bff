"""The compression module and control network of the small presets, as far as families share them.

    y ─► · gain ─► y_g ──────────► space-channel context ─► ⌊y_g − mean⌉ ─► coded
    │                                       ▲
hyper latent ─► coded ─► planes ─► h_s ─► hyper planes
                         rate ────┘
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdcodec.latent.config import LatentConfig
from cdcodec.nn.blocks import Embedding, conv
from cdcodec.nn.context import HyperSynthesis, SpaceChannelContext
from cdcodec.nn.control import Control
from cdcodec.nn.device import autocast
from cdcodec.nn.unet import DownHalf


@dataclass(frozen=True)
class Hyper:
    """The hyper latent of a batch in training.

    Attributes:
        planes: What h_s sees of it, [B, N, h, w] at 1/64; gradients pass.
        bits: Its cost [B].
        loss: What else it wants to have minimised, a scalar.
    """

    planes: Tensor
    bits: Tensor
    loss: Tensor


@dataclass(frozen=True)
class Coded:
    """What the decoder gets for a batch, and what it costs.

    Attributes:
        z_c: Content variables [B, C, H/8, W/8].
        hint: What the control network sees beside the noisy latent, at 1/8.
        bpp: Bits per pixel of every image [B].
        loss: The hyper latent's own loss.
    """

    z_c: Tensor
    hint: Tensor
    bpp: Tensor
    loss: Tensor


class LatentNetwork(nn.Module, ABC):
    """All trained parameters of a small preset, but for the prior's."""

    def __init__(self, config: LatentConfig, planes: int, hint: int) -> None:
        super().__init__()
        self.config: LatentConfig = config
        prior = config.sizes_of_prior
        low, high = config.lambda_range
        ladder = torch.linspace(0, 1, config.anchors)[:, None]
        log_gain = 0.5 * math.log(high / low) * (ladder - 0.5) + 0.5
        self.log_gain = nn.Parameter(log_gain.repeat(1, config.y_channels))
        self.rate = Embedding(config.condition)
        self.h_s = HyperSynthesis(config.context(planes))
        self.context = SpaceChannelContext(config.context(planes))
        half = DownHalf(
            prior.latent + hint, config.control_widths, config.control_depths, config.condition
        )
        self.control = Control(half, prior.unet_shape)

    @abstractmethod
    def analyse(self, x: Tensor, features: Tensor, z_0: Tensor) -> Tensor:
        """Map an image [B, 3, H, W], its features and latent to y [B, M, H/16, W/16]."""

    @abstractmethod
    def hyper(self, y: Tensor, z_0: Tensor, u: Tensor, generator: torch.Generator) -> Hyper:
        """Encode y's hyper latent for training."""

    @abstractmethod
    def hyper_latent(self, y: Tensor, z_0: Tensor, u: Tensor) -> tuple[str, Tensor]:
        """Return the hyper latent's name and integers [B, ..., ceil(h/4), ceil(w/4)]."""

    @abstractmethod
    def planes(self, hyper: Tensor) -> Tensor:
        """Return what h_s sees of those integers."""

    @abstractmethod
    def synthesise(self, y_hat: Tensor, planes: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Map y_hat [B, M, h, w], h and w multiples of 4, and planes to (z_c, hint) at 1/8."""

    def gain(self, u: Tensor) -> Tensor:
        """Return the gains on y [B, M, 1, 1] at rate positions u [B] in 0..1."""
        return ladder_at(self.log_gain, u).exp()[:, :, None, None]

    def code(
        self, x: Tensor, features: Tensor, z_0: Tensor, u: Tensor, generator: torch.Generator
    ) -> Coded:
        """Encode and decode a batch, with noise in place of rounding where bits are counted."""
        with autocast(x.device):
            y = self.analyse(x, features, z_0)
        y = y.float()
        gain = self.gain(u)
        hyper = self.hyper(y, z_0, u, generator)
        noise = torch.rand(y.shape, generator=generator, device=y.device) - 0.5
        y_hat, bits = self.context(y * gain, self.h_s(hyper.planes, u, *y.shape[-2:]), noise)
        with autocast(x.device):
            z_c, hint = self.synthesise(y_hat / gain, hyper.planes, u)
        pixels = x.shape[-1] * x.shape[-2]
        return Coded(z_c.float(), hint, (bits + hyper.bits) / pixels, hyper.loss)


class HyperAnalysis(nn.Module):
    """h_a: y to the hyper latent, at 1/64."""

    def __init__(self, config: LatentConfig, out_channels: int) -> None:
        super().__init__()
        width = config.hyper_width
        self.conv1 = conv(config.y_channels, width)
        self.conv2 = conv(width, width, stride=2)
        self.conv3 = conv(width, out_channels, stride=2)

    def forward(self, y: Tensor) -> Tensor:
        """Map y [B, M, h, w] to [B, N, ceil(h/4), ceil(w/4)], replicating y's border."""
        height, width = y.shape[-2:]
        y = F.pad(y, (0, -width % 4, 0, -height % 4), mode="replicate")
        h = F.leaky_relu(self.conv1(y), 0.1)
        z: Tensor = self.conv3(F.leaky_relu(self.conv2(h), 0.1))
        return z


def ladder_at(ladder: Tensor, u: Tensor) -> Tensor:
    """Interpolate ladder [A, C] linearly at positions u [B] in 0..1; returns [B, C]."""
    position = u * (len(ladder) - 1)
    left = position.floor().clamp(0, len(ladder) - 2).long()
    fraction = (position - left)[:, None]
    return ladder[left] * (1 - fraction) + ladder[left + 1] * fraction
