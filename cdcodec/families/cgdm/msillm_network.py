"""The networks of MS-ILLM: the autoencoder of HiFiC under a mean and scale hyperprior.

Muckley et al., "Improving statistical fidelity for neural image compression with implicit local
likelihood models", ICML 2023; the architecture is that of Mentzer et al., "High-fidelity generative
image compression", NeurIPS 2020:

    x ──encoder──► y ────────────Q──────► y_hat ──decoder──► x_hat
                   │             ▲ mean, scale
             hyper_analysis      │
                   ▼             │
                   z ──Q──► z_hat┘ hyper_synthesis_mean, hyper_synthesis_scale

    Q = rounding about the mean (y) or the median (z); z under a factorised prior, y Gaussian

Reference: https://github.com/facebookresearch/NeuralCompression, HiFiCAutoencoder (MIT). These
networks compute the same and name their parameters as its checkpoints do. Images are in 0..1 and
their sides multiples of 64.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from cdcodec.nn.prior import FactorizedPrior

NORM_EPS = 1e-3
PRIOR_WIDTHS = (3, 3, 3, 3)


@dataclass(frozen=True)
class MsIllmConfig:
    """Sizes of the networks; the defaults are those of the published checkpoints.

    Attributes:
        widths: Channels of the encoder at 1, 1/2, 1/4, 1/8, 1/16 of the image, each at least 2; the
            decoder mirrors them.
        latent: Channels of y, at least 2.
        hyper: Channels of z, and between the layers of the hyper networks.
        residual_blocks: Of the decoder, at 1/16 of the image.
    """

    widths: tuple[int, ...] = (60, 120, 240, 480, 960)
    latent: int = 220
    hyper: int = 320
    residual_blocks: int = 9


PUBLISHED = MsIllmConfig()
MSILLM_TINY = MsIllmConfig(widths=(4, 6, 8, 10, 12), latent=6, hyper=5, residual_blocks=2)


class ChannelNorm2D(nn.Module):
    """Normalisation over the channels of each position, with a gain and a bias per channel.

    Unlike a layer normalisation it divides by the unbiased variance, so there must be two channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [B, C, H, W]."""
        variance, mean = torch.var_mean(x, dim=1, correction=1, keepdim=True)
        return (x - mean) * torch.rsqrt(variance + NORM_EPS) * self.gamma + self.beta


class Encoder(nn.Module):
    """The analysis transform: a convolution for each resolution, then one to y."""

    def __init__(self, config: MsIllmConfig) -> None:
        super().__init__()
        first, last = config.widths[0], config.widths[-1]
        blocks: list[nn.Module] = [_normalised(nn.Conv2d(3, first, 7, padding=3), first)]
        for fan_in, fan_out in pairwise(config.widths):
            halving = nn.Conv2d(fan_in, fan_out, 3, stride=2, padding=1)
            blocks.append(_normalised(halving, fan_out))
        self.blocks = nn.Sequential(*blocks, nn.Conv2d(last, config.latent, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, 3, H, W] in 0..1 to y [B, M, H/16, W/16]."""
        y: Tensor = self.blocks(x)
        return y


class ResidualBlock(nn.Module):
    """x + norm(conv(relu(norm(conv(x)))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.sequence = nn.Sequential(
            *_normalised(nn.Conv2d(channels, channels, 3, padding=1), channels),
            nn.Conv2d(channels, channels, 3, padding=1),
            ChannelNorm2D(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, C, H, W] to the same shape."""
        out: Tensor = x + self.sequence(x)
        return out


class Decoder(nn.Module):
    """The synthesis transform, HiFiC's generator: most of its work is done at 1/16 of the image."""

    def __init__(self, config: MsIllmConfig) -> None:
        super().__init__()
        widths = config.widths[::-1]
        self.block_0 = nn.Sequential(
            ChannelNorm2D(config.latent),
            nn.Conv2d(config.latent, widths[0], 3, padding=1),
            ChannelNorm2D(widths[0]),
        )
        self.resid_blocks = nn.Sequential(
            *(ResidualBlock(widths[0]) for _ in range(config.residual_blocks))
        )
        blocks: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            doubling = nn.ConvTranspose2d(fan_in, fan_out, 3, stride=2, padding=1, output_padding=1)
            blocks.append(_normalised(doubling, fan_out))
        self.blocks = nn.Sequential(*blocks, nn.Conv2d(widths[-1], 3, 7, padding=3))

    def forward(self, y_hat: Tensor) -> Tensor:
        """Map y_hat [B, M, h, w] to x_hat [B, 3, 16h, 16w] in about 0..1."""
        head = self.block_0(y_hat)
        x_hat: Tensor = self.blocks(head + self.resid_blocks(head))
        return x_hat


class EntropyBottleneck(nn.Module):
    """The prior of z in the layout of CompressAI: matrices are applied from the left.

    Attributes:
        quantiles: [N, 1, 3], a lower one, the median and an upper one of each channel.
        matrices: Each [N, r_(k+1), r_k].
        biases: Each [N, r_(k+1), 1].
        factors: Likewise; FactorizedPrior calls them gates.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        ours = FactorizedPrior(channels, PRIOR_WIDTHS)
        self.matrices, self.biases, self.factors = (
            nn.ParameterList(nn.Parameter(_transposed(each)) for each in group)
            for group in (ours.matrices, ours.biases, ours.gates)
        )
        self.quantiles = nn.Parameter(torch.tensor([-10.0, 0.0, 10.0]).repeat(channels, 1, 1))

    @property
    def medians(self) -> Tensor:
        """What z is rounded about, [N, 1, 1]."""
        return self.quantiles[:, :, 1:2]

    @torch.no_grad()
    def prior(self) -> FactorizedPrior:
        """Return a copy in our layout, on the CPU."""
        ours = FactorizedPrior(len(self.quantiles), PRIOR_WIDTHS)
        for group, theirs in (
            (ours.matrices, self.matrices),
            (ours.biases, self.biases),
            (ours.gates, self.factors),
        ):
            for parameter, given in zip(group, theirs, strict=True):
                parameter.copy_(_transposed(given))
        ours.medians.copy_(self.medians[None])
        return ours


class MsIllmNetwork(nn.Module):
    """All that a checkpoint holds, but for what is computed from the rest."""

    def __init__(self, config: MsIllmConfig = PUBLISHED) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.hyper_analysis = nn.Sequential(
            nn.Conv2d(config.latent, config.hyper, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(config.hyper, config.hyper, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(config.hyper, config.hyper, 5, stride=2, padding=2),
        )
        self.hyper_synthesis_mean = _hyper_synthesis(config)
        self.hyper_synthesis_scale = _hyper_synthesis(config)
        self.hyper_bottleneck = EntropyBottleneck(config.hyper)

    def parameters_of(self, z_hat: Tensor) -> tuple[Tensor, Tensor]:
        """Map z_hat [B, N, h, w] to mean and scale of y, each [B, M, 4h, 4w].

        The scale may lie below the least one, 0.11, which stands for it then.
        """
        return self.hyper_synthesis_mean(z_hat), self.hyper_synthesis_scale(z_hat)


def _normalised(conv: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(conv, ChannelNorm2D(channels), nn.ReLU())


def _hyper_synthesis(config: MsIllmConfig) -> nn.Sequential:
    doublings = [
        nn.ConvTranspose2d(config.hyper, config.hyper, 5, stride=2, padding=2, output_padding=1)
        for _ in range(2)
    ]
    return nn.Sequential(
        doublings[0],
        nn.ReLU(),
        doublings[1],
        nn.ReLU(),
        nn.Conv2d(config.hyper, config.latent, 3, padding=1),
    )


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.detach().transpose(1, 2).contiguous()
