"""The CDC networks at the paper's scale, with the sizes of the authors' published checkpoints.

Yang and Mandt, "Lossy image compression with conditional diffusion models" (2023), section 3 and
appendix B:

    x ──g_a──► y ──────────────Q──────────► ŷ ──g_s──► context maps at 1, 1/2, 1/4, 1/8 ──┐
               │               ▲ mean                                                     ▼
              h_a              │ scale                     x_n ──► U-Net (n / N) ──► x_0 or eps
               ▼               │                            ▲              │
               z ──Q──► ẑ ──h_s┘                            └──── DDIM ────┘

    Q = rounding about the mean (y) or the median (z); z under a factorised prior, y Gaussian

Reference: https://github.com/buggyyang/CDC_compression, folder xparam, commit 00b10de (MIT). These
networks compute the same; `convert` names their parameters. Images are in -1..1 here, as there, and
their sides must be multiples of 64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdcodec.diffusion import prediction, samplers, schedules
from cdcodec.nn.attention import AttentionBlock, ChannelNorm
from cdcodec.nn.prior import FactorizedPrior

SCALE_MIN = 0.1  # lower bound of the Gaussian scales of y
LEAK = 0.2  # slope of the leaky ReLUs below zero
STRIDE = 64  # pixels per element of z

Prediction: TypeAlias = Literal["x0", "eps"]


@dataclass(frozen=True)
class PaperConfig:
    """Sizes of the networks, and what the U-Net predicts.

    Attributes:
        width: Channels that all multipliers below refer to.
        latent_multipliers: Channels of g_a at 1/2, 1/4, 1/8, 1/16 of the image; g_s mirrors them.
        unet_multipliers: Channels of the U-Net's levels at 1, 1/2, 1/4, …
        prediction: "x0" with the cosine schedule, or "eps" with the linear one (section 4).
    """

    width: int = 64
    latent_multipliers: tuple[int, ...] = (1, 2, 3, 4)
    unet_multipliers: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    prediction: Prediction = "x0"

    @property
    def latent_channels(self) -> tuple[int, ...]:
        """Channels of g_a's stages; the last are those of y, and of z."""
        return tuple(self.width * multiplier for multiplier in self.latent_multipliers)

    @property
    def context_channels(self) -> tuple[int, ...]:
        """Channels of the context maps from full size down."""
        first, *others = self.latent_channels[:-1]
        return first, first, *others

    @property
    def unet_channels(self) -> tuple[int, ...]:
        """Channels of the U-Net's levels from full size down."""
        return tuple(self.width * multiplier for multiplier in self.unet_multipliers)

    def schedule(self) -> schedules.Schedule:
        """Build the noise schedule that belongs to the prediction."""
        return schedules.cosine() if self.prediction == "x0" else schedules.linear()


PAPER = PaperConfig()
PAPER_EPS = PaperConfig(prediction="eps")
PAPER_TINY = PaperConfig(width=4)


class ConvBlock(nn.Module):
    """relu(norm(conv(x)))."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
        self.norm = ChannelNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, C_in, H, W] to [B, C_out, H, W]."""
        return F.relu(self.norm(self.conv(x)))


class ResnetBlock(nn.Module):
    """skip(x) + block2(block1(x)), in the U-Net with a shift by the time between the two."""

    def __init__(
        self, in_channels: int, out_channels: int, time_channels: int = 0, kernel: int = 3
    ) -> None:
        super().__init__()
        self.block1 = ConvBlock(in_channels, out_channels, kernel)
        self.block2 = ConvBlock(out_channels, out_channels)
        self.time = nn.Linear(time_channels, out_channels) if time_channels else None
        self.skip: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.skip = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """Map x [B, C_in, H, W] to [B, C_out, H, W]; time is [B, time_channels]."""
        h = self.block1(x)
        if self.time is not None:
            assert time is not None
            h = h + self.time(F.leaky_relu(time, LEAK))[:, :, None, None]
        out: Tensor = self.skip(x) + self.block2(h)
        return out


def _downsample(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride=2, padding=1)


def _upsample(channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)


class Stage(nn.Module):
    """A ResnetBlock and a change of resolution by two: one stage of g_a or g_s."""

    def __init__(self, block: ResnetBlock, resample: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, C_in, H, W] to [B, C_out, H/2, W/2] or [B, C_out, 2H, 2W]."""
        out: Tensor = self.resample(self.block(x))
        return out


class HyperTransform(nn.Module):
    """Convolutions with leaky ReLUs between them: h_a or h_s (Minnen et al. 2018)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, C, H, W] to what the layers make of it."""
        *layers, last = self.layers
        for layer in layers:
            x = F.leaky_relu(layer(x), LEAK)
        out: Tensor = last(x)
        return out


class Compressor(nn.Module):
    """Transforms and entropy model, and the decoder of the context maps (ResnetCompressor)."""

    def __init__(self, config: PaperConfig) -> None:
        super().__init__()
        channels = config.latent_channels
        latent = channels[-1]
        self.g_a = nn.Sequential(
            *(
                Stage(ResnetBlock(below, above, kernel=3 if level else 7), _downsample(above))
                for level, (below, above) in enumerate(pairwise((3, *channels)))
            )
        )
        self.h_a = HyperTransform(
            nn.Conv2d(latent, latent, 3, padding=1),
            nn.Conv2d(latent, latent, 5, stride=2, padding=2),
            nn.Conv2d(latent, latent, 5, stride=2, padding=2),
        )
        self.h_s = HyperTransform(
            nn.ConvTranspose2d(latent, latent, 5, stride=2, padding=2, output_padding=1),
            nn.ConvTranspose2d(latent, latent, 5, stride=2, padding=2, output_padding=1),
            nn.Conv2d(latent, 2 * latent, 3, padding=1),
        )
        self.g_s = nn.ModuleList(
            Stage(ResnetBlock(below, above), _upsample(above))
            for below, above in pairwise((latent, *reversed(config.context_channels)))
        )
        self.prior = FactorizedPrior(latent)

    def analyse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map images x [B, 3, H, W] in -1..1 to y [B, C, H/16, W/16] and z [B, C, H/64, W/64]."""
        y = self.g_a(x)
        return y, self.h_a(y)

    def parameters_of_y(self, z_hat: Tensor) -> tuple[Tensor, Tensor]:
        """Map z_hat [B, C, h, w] to mean and scale of y, each [B, C, 4h, 4w]."""
        mean, scale = self.h_s(z_hat).chunk(2, dim=1)
        return mean, scale.clamp_min(SCALE_MIN)

    def context(self, y_hat: Tensor) -> tuple[Tensor, ...]:
        """Decode y_hat [B, C, H/16, W/16] to the context maps at 1, 1/2, 1/4, 1/8 of the image."""
        maps = []
        h = y_hat
        for stage in self.g_s:
            h = stage(h)
            maps.append(h)
        return tuple(reversed(maps))


class Level(nn.Module):
    """One resolution of the U-Net: two ResnetBlocks and attention, then a change of resolution."""

    def __init__(
        self, in_channels: int, out_channels: int, time: int, resample: nn.Module, kernel: int = 3
    ) -> None:
        super().__init__()
        self.block1 = ResnetBlock(in_channels, out_channels, time, kernel)
        self.block2 = ResnetBlock(out_channels, out_channels, time)
        self.attention = AttentionBlock(out_channels)
        self.resample = resample

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map x [B, C_in, H, W] to [B, C_out, H, W], before the change of resolution."""
        out: Tensor = self.attention(self.block2(self.block1(x, time), time))
        return out


class Unet(nn.Module):
    """The denoiser: context maps are concatenated to the input of the first levels (appendix B).

    As in the authors' network, the output of the first level is kept for no one: there are as many
    ways up as ways down, so the last way up already reaches full size with the second level's.
    """

    def __init__(self, config: PaperConfig) -> None:
        super().__init__()
        channels, time = config.unet_channels, config.width
        extra = [*config.context_channels, *[0] * len(channels)]
        self.time = nn.Sequential(nn.Linear(1, 4 * time), nn.GELU(), nn.Linear(4 * time, time))
        self.downs = nn.ModuleList()
        for level, (below, above) in enumerate(pairwise((3, *channels))):
            last = level == len(channels) - 1
            resample = nn.Identity() if last else _downsample(above)
            kernel = 3 if level else 7
            self.downs.append(Level(below + extra[level], above, time, resample, kernel))
        self.middle1 = ResnetBlock(channels[-1], channels[-1], time)
        self.middle_attention = AttentionBlock(channels[-1])
        self.middle2 = ResnetBlock(channels[-1], channels[-1], time)
        self.ups = nn.ModuleList(
            Level(2 * above, below, time, _upsample(below))
            for above, below in pairwise(reversed(channels))
        )
        self.norm = ChannelNorm(channels[0])
        self.out = nn.Conv2d(channels[0], 3, 7, padding=3)

    def forward(self, x: Tensor, time: Tensor, context: Sequence[Tensor]) -> Tensor:
        """Predict x_0 or eps [B, 3, H, W] from x, the noisy images of that shape.

        time [B] is n / N, in 0..1; context holds the maps of `Compressor.context`.
        """
        t = self.time(time[:, None])
        skips = []
        for level, down in enumerate(self.downs):
            x = torch.cat([x, context[level]], 1) if level < len(context) else x
            x = down(x, t)
            skips.append(x)
            x = down.resample(x)  # type: ignore[operator]
        x = self.middle2(self.middle_attention(self.middle1(x, t)), t)
        for up in self.ups:
            x = up.resample(up(torch.cat([x, skips.pop()], 1), t))  # type: ignore[operator]
        out: Tensor = self.out(self.norm(x))
        return out


class PaperCdc(nn.Module):
    """The whole model at the paper's scale."""

    def __init__(self, config: PaperConfig = PAPER) -> None:
        super().__init__()
        self.config = config
        self.schedule = config.schedule()
        self.compressor = Compressor(config)
        self.unet = Unet(config)

    def denoiser(self, context: Sequence[Tensor]) -> prediction.Denoiser:
        """Bind the context maps, and clamp what the U-Net predicts to the range of images."""

        def network(x_t: Tensor, n: int) -> Tensor:
            time = x_t.new_full((len(x_t),), n / len(self.schedule))
            out: Tensor = self.unet(x_t, time, context)
            return out

        if self.config.prediction == "x0":
            return prediction.from_x0(network, limit=1.0)
        return prediction.from_eps(network, self.schedule.alpha_bar, limit=1.0)

    def decode(
        self,
        y_hat: Tensor,
        start: Tensor,
        steps: int,
        progress: samplers.Progress | None = None,
    ) -> Tensor:
        """Decode y_hat [B, C, H/16, W/16] by `steps` steps of DDIM into images in 0..1.

        start [B, 3, H, W] is x_N: zeros, or noise times gamma (0.8 in the paper).
        """
        denoise = self.denoiser(self.compressor.context(y_hat))
        indices = schedules.timesteps(steps, len(self.schedule))
        x_hat = samplers.ddim(denoise, start, indices, self.schedule.alpha_bar, progress)
        return x_hat / 2 + 0.5
