"""RDEIC's compression networks at the paper's scale, with the sizes of the published checkpoints.

Li et al., "RDEIC: Accelerating diffusion-based extreme image compression with relay residual
diffusion" (2024, arXiv:2410.02640), section 3.2:

    features ──g_a──► y ──────────────Q──────────► ŷ ──g_s──► guide features ──out──► z_c
    (at 1/8)          │               ▲ mean                        │                  │
                     h_a              │ scale                       ▼                  ▼
                      ▼      space-channel context          control of the U-Net   relay start
                      z ──VQ──► l ──h_s──┘

Features are those of the latent prior's encoder, before its last layer, in the scale of its
latents. l are the indices of the codebook entries nearest to z, coded with equal probabilities.

Reference: https://github.com/huai-chang/RDEIC, commit 5874b65. These networks compute the same, and
`convert` names their parameters. Images are multiples of 64 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cdcodec.nn.blocks import conv
from cdcodec.nn.elic import DownBlock, ResidualBlock, UpBlock
from cdcodec.nn.elic_context import CHANNEL_WIDTHS, PaperContext


@dataclass(frozen=True)
class PaperConfig:
    """Sizes of the networks.

    Attributes:
        features: Channels of what g_a sees.
        width: Channels of y, of z and of the guide features.
        hyper: Channels of the last two blocks of h_s; the last are the hyper planes.
        slices: Channels of the slices of y in the order of coding.
        channel_widths: Channels inside the context model's channel contexts.
        entries: Size of the codebook.
        latent: Channels of the prior's latents.
    """

    features: int = 512
    width: int = 256
    hyper: tuple[int, int] = (384, 512)
    slices: tuple[int, ...] = (8, 8, 8, 8, 16, 16, 32, 32, 64, 64)
    channel_widths: tuple[int, int] = CHANNEL_WIDTHS
    entries: int = 16_384
    latent: int = 4


PAPER = PaperConfig()
PAPER_TINY = PaperConfig(
    features=8,
    width=12,
    hyper=(12, 16),
    slices=(2, 4, 6),
    channel_widths=(8, 6),
    entries=32,
)


class Codebook(nn.Module):
    """The vectors that z is quantised to."""

    def __init__(self, entries: int, channels: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(entries, channels))

    def nearest(self, z: Tensor) -> Tensor:
        """Map z [B, N, h, w] to the indices of the nearest vectors, int64 [B, h, w]."""
        points = z.movedim(1, -1).flatten(0, 2).double()
        vectors = self.vectors.double()
        # |z - v|² without |z|², which is the same for all vectors.
        distance = vectors.square().sum(1) - 2 * points @ vectors.T
        return distance.argmin(1).view(len(z), *z.shape[-2:])

    def forward(self, indices: Tensor) -> Tensor:
        """Map indices [B, h, w] to vectors [B, N, h, w]."""
        return self.vectors[indices].movedim(-1, 1)


class PaperCompression(nn.Module):
    """Transforms and entropy model; a latent.codec.Compression of one rate."""

    def __init__(self, config: PaperConfig = PAPER) -> None:
        super().__init__()
        self.config = config
        width, (middle, planes) = config.width, config.hyper
        self.g_a = nn.Sequential(
            ResidualBlock(config.features, width),
            *(ResidualBlock(width) for _ in range(3)),
            DownBlock(width, width),
            *(ResidualBlock(width) for _ in range(3)),
            conv(width, width),
        )
        self.h_a = nn.Sequential(
            ResidualBlock(width),
            ResidualBlock(width),
            DownBlock(width, width),
            DownBlock(width, width),
        )
        self.codebook = Codebook(config.entries, width)
        self.h_s = nn.Sequential(
            UpBlock(width),
            UpBlock(width),
            ResidualBlock(width, middle),
            ResidualBlock(middle, planes),
        )
        self.context = PaperContext(config.slices, planes, config.channel_widths)
        self.g_s = nn.Sequential(
            conv(width, width),
            *(ResidualBlock(width) for _ in range(3)),
            UpBlock(width),
            *(ResidualBlock(width) for _ in range(4)),
        )
        self.out = conv(width, config.latent)

    def gain(self, u: Tensor) -> Tensor:
        """Return the gains on y, [B, 1, 1, 1] ones: there is but one rate."""
        return torch.ones_like(u)[:, None, None, None]

    def analyse(self, x: Tensor, features: Tensor, z_0: Tensor) -> Tensor:
        """Map features [B, F, H/8, W/8] to y [B, M, H/16, W/16].

        The image x and its latent z_0 are arguments of other families.
        """
        y: Tensor = self.g_a(features)
        return y

    def hyper_latent(self, y: Tensor, z_0: Tensor, u: Tensor) -> tuple[str, Tensor]:
        """Map y [B, M, h, w] to the indices l, int64 [B, h/4, w/4], and return their name too."""
        return "l", self.codebook.nearest(self.h_a(y))

    def planes(self, hyper: Tensor) -> Tensor:
        """Map indices l [B, h, w] to the codebook's vectors [B, N, h, w], which h_s sees."""
        vectors: Tensor = self.codebook(hyper.long())
        return vectors

    def synthesise(self, y_hat: Tensor, planes: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Map y_hat [B, M, H/16, W/16] to z_c [B, 4, H/8, W/8] and the guide features there.

        What planes had to say is in y_hat already.
        """
        guide = self.g_s(y_hat)
        return self.out(guide), guide
