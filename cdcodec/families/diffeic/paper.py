"""DiffEIC's compression networks at the paper's scale, with the sizes of the published checkpoints.

Li et al., "Toward extreme image compression with latent feature guidance and diffusion prior"
(2024, arXiv:2404.18820), section III-B:

    x ──g_a──► y ─────────────Q──────────► ŷ ─────────────g_s──► z_c, which guides the U-Net
         ▲     │              ▲ mean                       ▲
        z_0   h_a ◄── z_0     │ scale                     f_c
               ▼      space-channel context                │
               z ──Q──► ẑ ──h_s┴───────────────────────────┘

    Q = rounding about the mean (y) or the median (z); z under a factorised prior, y Gaussian
    z_0 = latent of x in the prior, from which features modulate g_a and h_a

Reference: https://github.com/huai-chang/DiffEIC, commit 9c21915 (Apache-2.0). These networks
compute the same, and `convert` names their parameters. Images come in -1..1, as in other families,
where theirs are in 0..1; their sides must be multiples of 64.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdcodec.nn.blocks import conv
from cdcodec.nn.elic import (
    Bottleneck,
    DownBlock,
    FeatureTransform,
    FeatureTransformBlock,
    UpBlock,
)
from cdcodec.nn.elic_context import CHANNEL_WIDTHS, PaperContext
from cdcodec.nn.prior import FactorizedPrior


@dataclass(frozen=True)
class PaperConfig:
    """Sizes of the networks.

    Attributes:
        encoder: Channels of g_a at 1/2, 1/4, 1/8 and 1/16 of the image; the last are also those of
            h_a, of z and of g_s at 1/8.
        hyper: Channels of h_s, at 1/32, 1/16 and 1/16; the last are the hyper planes.
        features: Channels on the way from ẑ to f_c, at 1/32 and 1/16; the last are those of f_c.
        slices: Channels of the slices of y in the order of coding.
        channel_widths: Channels inside the context model's channel contexts.
        side: Channels of the features that modulate.
        side_widths: Channels on the way to those that are computed from y or ŷ.
        hidden: Channels inside the modulation.
        latent: Channels of the prior's latents.
    """

    encoder: tuple[int, int, int, int] = (64, 128, 192, 192)
    hyper: tuple[int, int, int] = (320, 480, 640)
    features: tuple[int, int] = (96, 48)
    slices: tuple[int, ...] = (8, 8, 8, 8, 16, 16, 32, 32, 96, 96)
    channel_widths: tuple[int, int] = CHANNEL_WIDTHS
    side: int = 64
    side_widths: tuple[int, int] = (256, 128)
    hidden: int = 128
    latent: int = 4


PAPER = PaperConfig()
PAPER_TINY = PaperConfig(
    encoder=(4, 6, 8, 8),
    hyper=(10, 12, 16),
    features=(6, 4),
    slices=(2, 4, 6),
    channel_widths=(8, 6),
    side=4,
    side_widths=(8, 6),
    hidden=6,
)


def _doubling(in_channels: int, out_channels: int, kernel: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(
        in_channels, out_channels, kernel, stride=2, padding=kernel // 2, output_padding=1
    )


def _bottlenecks(channels: int) -> list[nn.Module]:
    return [Bottleneck(channels) for _ in range(3)]


class _Side(nn.Module):
    """A side feature for the modulation at one resolution, from another feature."""

    def __init__(self, first: nn.Module, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            first,
            nn.GELU(),
            conv(channels, channels, kernel=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, C, h, w] to S channels, of the extent that the first layer gives."""
        out: Tensor = self.layers(x)
        return out


class _MergedSide(nn.Module):
    """A side feature from two features of one resolution."""

    def __init__(self, in_channels: int, widths: tuple[int, int], out_channels: int) -> None:
        super().__init__()
        first, second = widths
        self.layers = nn.Sequential(
            conv(in_channels, first),
            nn.GELU(),
            conv(first, second),
            nn.GELU(),
            conv(second, out_channels),
        )

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Map x and other [B, ., h, w] to [B, S, h, w]."""
        out: Tensor = self.layers(torch.cat([x, other], 1))
        return out


class Analysis(nn.Module):
    """g_a: the image to y, modulated by its latent."""

    def __init__(self, config: PaperConfig) -> None:
        super().__init__()
        *above, width, last = config.encoder
        latent, side, hidden = sum(config.slices), config.side, config.hidden
        stages: list[nn.Module] = []
        for below, channels in pairwise((3, *above, width)):
            stages += [DownBlock(below, channels), *_bottlenecks(channels)]
        self.side_8 = _Side(conv(config.latent, side), side)
        self.side_16 = _Side(conv(side, side, stride=2), side)
        self.side_16_2 = _Side(conv(side, side), side)
        self.to_8 = nn.Sequential(*stages)
        self.transform_8 = FeatureTransform(width, side, hidden)
        self.to_16 = nn.Sequential(DownBlock(width, last), *_bottlenecks(last))
        self.transform_16 = FeatureTransform(last, side, hidden)
        self.conv = conv(last, last)
        self.block1 = FeatureTransformBlock(last, side, hidden)
        self.block2 = FeatureTransformBlock(last, side, hidden)
        self.out = conv(last, latent)

    def forward(self, x: Tensor, z_0: Tensor) -> Tensor:
        """Map x [B, 3, H, W] in 0..1 and z_0 [B, 4, H/8, W/8] to y [B, M, H/16, W/16]."""
        side = self.side_8(z_0)
        h = self.transform_8(self.to_8(x), side)
        side = self.side_16(side)
        h = self.conv(self.transform_16(self.to_16(h), side))
        side = self.side_16_2(side)
        y: Tensor = self.out(self.block2(self.block1(h, side), side))
        return y


class HyperAnalysis(nn.Module):
    """h_a: y to z, modulated by the image's latent."""

    def __init__(self, config: PaperConfig) -> None:
        super().__init__()
        width, latent = config.encoder[-1], sum(config.slices)
        side, hidden = config.side, config.hidden
        self.side = _Side(conv(config.latent, side, stride=2), side)
        self.side_16 = _MergedSide(side + latent, config.side_widths, side)
        self.side_32 = _Side(conv(side, side, stride=2), side)
        self.side_64 = _Side(conv(side, side, stride=2), side)
        self.conv_16 = conv(latent, width)
        self.transform_16 = FeatureTransform(width, side, hidden)
        self.conv_32 = conv(width, width, kernel=5, stride=2)
        self.transform_32 = FeatureTransform(width, side, hidden)
        self.conv_64 = conv(width, width, kernel=5, stride=2)
        self.block1 = FeatureTransformBlock(width, side, hidden)
        self.block2 = FeatureTransformBlock(width, side, hidden)
        self.out = conv(width, width, kernel=1)

    def forward(self, y: Tensor, z_0: Tensor) -> Tensor:
        """Map y [B, M, H/16, W/16] and z_0 [B, 4, H/8, W/8] to z [B, N, H/64, W/64]."""
        side = self.side_16(self.side(z_0), y)
        h = F.gelu(self.transform_16(self.conv_16(y), side))
        side = self.side_32(side)
        h = F.gelu(self.transform_32(self.conv_32(h), side))
        side = self.side_64(side)
        h = self.conv_64(h)
        z: Tensor = self.out(self.block2(self.block1(h, side), side))
        return z


class Synthesis(nn.Module):
    """g_s: y_hat to the latent that guides, modulated by f_c."""

    def __init__(self, config: PaperConfig) -> None:
        super().__init__()
        latent, width = sum(config.slices), config.encoder[-1]
        side, hidden = config.side, config.hidden
        self.side_16 = _MergedSide(latent + config.features[-1], config.side_widths, side)
        self.side_16_2 = _Side(conv(side, side), side)
        self.side_8 = _Side(_doubling(side, side, 3), side)
        self.block1 = FeatureTransformBlock(latent, side, hidden)
        self.block2 = FeatureTransformBlock(latent, side, hidden)
        self.at_16 = nn.Sequential(conv(latent, width), *_bottlenecks(width))
        self.transform_16 = FeatureTransform(width, side, hidden)
        self.to_8 = nn.Sequential(UpBlock(width), *_bottlenecks(width))
        self.transform_8 = FeatureTransform(width, side, hidden)
        self.out = conv(width, config.latent)

    def forward(self, y_hat: Tensor, f_c: Tensor) -> Tensor:
        """Map y_hat [B, M, H/16, W/16] and f_c [B, ., H/16, W/16] to z_c [B, 4, H/8, W/8]."""
        side = self.side_16(f_c, y_hat)
        h = self.block2(self.block1(y_hat, side), side)
        side = self.side_16_2(side)
        h = self.transform_16(self.at_16(h), side)
        side = self.side_8(side)
        z_c: Tensor = self.out(self.transform_8(self.to_8(h), side))
        return z_c


def _from_z(*channels: int) -> nn.Sequential:
    """Return two transposed convolutions of stride 2 and one of stride 1, GELUs between them."""
    first, second, third, fourth = channels
    return nn.Sequential(
        _doubling(first, second, 5),
        nn.GELU(),
        _doubling(second, third, 5),
        nn.GELU(),
        nn.ConvTranspose2d(third, fourth, 3, padding=1),
    )


class PaperCompression(nn.Module):
    """Transforms and entropy model; a latent.codec.Compression of one rate."""

    def __init__(self, config: PaperConfig = PAPER) -> None:
        super().__init__()
        self.config = config
        width = config.encoder[-1]
        self.g_a = Analysis(config)
        self.h_a = HyperAnalysis(config)
        self.h_s = _from_z(width, *config.hyper)
        self.f_c = _from_z(width, *config.features, config.features[-1])
        self.g_s = Synthesis(config)
        self.prior = FactorizedPrior(width, widths=(3, 3, 3, 3))
        self.context = PaperContext(config.slices, config.hyper[-1], config.channel_widths)

    def gain(self, u: Tensor) -> Tensor:
        """Return the gains on y, [B, 1, 1, 1] ones: there is but one rate."""
        return torch.ones_like(u)[:, None, None, None]

    def analyse(self, x: Tensor, features: Tensor, z_0: Tensor) -> Tensor:
        """Map x [B, 3, H, W] in -1..1 and its latent z_0 [B, 4, H/8, W/8] to y [B, M, H/16, W/16].

        The features of the prior's encoder are an argument of other families.
        """
        y: Tensor = self.g_a((x + 1) / 2, z_0)
        return y

    def hyper_latent(self, y: Tensor, z_0: Tensor, u: Tensor) -> tuple[str, Tensor]:
        """Map y [B, M, h, w] and z_0 to whole steps of z from its medians, and name them.

        They are int64 [B, N, h/4, w/4].
        """
        return "z", torch.round(self.h_a(y, z_0) - self.prior.medians).long()

    def planes(self, hyper: Tensor) -> Tensor:
        """Map whole steps [B, N, h, w] to z_hat of the same shape, which h_s sees."""
        return hyper + self.prior.medians

    def synthesise(self, y_hat: Tensor, planes: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Map y_hat [B, M, H/16, W/16] and planes [B, N, H/64, W/64] to z_c, twice.

        z_c [B, 4, H/8, W/8] is also the hint of the control network.
        """
        z_c = self.g_s(y_hat, self.f_c(planes))
        return z_c, z_c
