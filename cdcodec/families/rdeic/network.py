"""The small RDEIC networks: compression with a categorical hyper latent, and guide features.

Paper 002, section 3.1 and appendix B. Deviations of the small presets, each for the sake of one
set of weights that a CPU can train and run: gains on y make the rate variable, the networks have no
normalisation and are told the rate, and a linear transform of z_0 stands beside g_a and g_s. The
control network has more than the paper's 20 % of the frozen one's width, as 20 % of a small network
is nearly nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdcodec.families.rdeic.config import RdeicConfig
from cdcodec.latent.network import Hyper, HyperAnalysis, LatentNetwork
from cdcodec.nn.blocks import Stack, Upsample, conv

COMMITMENT = 0.25
"""beta of eq. 9."""

USAGE_DECAY = 0.99


class Analysis(nn.Module):
    """g_a: features of the prior's encoder to y."""

    def __init__(self, config: RdeicConfig) -> None:
        super().__init__()
        a, b = config.widths
        self.stem = conv(config.sizes_of_prior.features, a)
        self.stack8 = Stack(a, 1)
        self.down16 = conv(a, b, stride=2)
        self.stack16 = Stack(b, 1)
        self.head = conv(b, config.y_channels)
        self.linear = conv(4 * config.sizes_of_prior.latent, config.y_channels, kernel=1)

    def forward(self, features: Tensor, z_0: Tensor) -> Tensor:
        """Map features [B, F, 2h, 2w] and z_0 [B, C, 2h, 2w] to y [B, M, h, w]."""
        h = self.stack16(self.down16(self.stack8(self.stem(features))))
        y: Tensor = self.head(h) + self.linear(F.pixel_unshuffle(z_0, 2))
        return y


class Synthesis(nn.Module):
    """g_s: y_hat to guide features and content variables."""

    def __init__(self, config: RdeicConfig) -> None:
        super().__init__()
        a, b = config.widths
        d = config.condition
        self.stem = conv(config.y_channels, b)
        self.stack16 = Stack(b, 2, d)
        self.up8 = Upsample(b, config.hint)
        self.stack8 = Stack(config.hint, 3, d)
        self.head = conv(config.hint, config.sizes_of_prior.latent)
        self.linear = conv(config.y_channels, 4 * config.sizes_of_prior.latent, kernel=1)

    def forward(self, y_hat: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        """Map y_hat [B, M, h, w] to z_c [B, C, 2h, 2w] and guide features [B, G, 2h, 2w]."""
        guide = self.stack8(self.up8(self.stack16(self.stem(y_hat), rate)), rate)
        linear = F.pixel_shuffle(self.linear(y_hat), 2)
        return linear + self.head(F.leaky_relu(guide, 0.1)), guide


class RdeicNetwork(LatentNetwork):
    """All trained parameters of one weight set, in float.

    Attributes:
        codebook: The hyper latent's vectors [K, N].
        usage: How often each was chosen lately [K]; for training only, and not stored.
    """

    def __init__(self, config: RdeicConfig) -> None:
        super().__init__(config, config.code_channels, config.hint)
        self.config: RdeicConfig = config
        self.g_a = Analysis(config)
        self.g_s = Synthesis(config)
        self.h_a = HyperAnalysis(config, config.code_channels)
        self.codebook = nn.Parameter(torch.randn(config.codes, config.code_channels))
        self.usage: Tensor
        self.register_buffer(
            "usage", torch.full((config.codes,), 1 / config.codes), persistent=False
        )

    def analyse(self, x: Tensor, features: Tensor, z_0: Tensor) -> Tensor:
        """See LatentNetwork."""
        y: Tensor = self.g_a(features, z_0)
        return y

    def hyper_latent(self, y: Tensor, z_0: Tensor, u: Tensor) -> tuple[str, Tensor]:
        """Return the nearest codes of h_a(y), [B, ceil(h/4), ceil(w/4)]."""
        return "l", self._nearest(self.h_a(y))

    def planes(self, hyper: Tensor) -> Tensor:
        """Look codes [B, h, w] up; returns [B, N, h, w]."""
        return self.codebook[hyper.long()].permute(0, 3, 1, 2)

    def hyper(self, y: Tensor, z_0: Tensor, u: Tensor, generator: torch.Generator) -> Hyper:
        """Quantise with a straight-through estimator; the loss is the codebook's (eq. 9)."""
        latent = self.h_a(y)
        with torch.no_grad():
            codes = self._nearest(latent)
            self._revive(latent, codes, generator)
        chosen = self.planes(codes)
        loss = F.mse_loss(chosen, latent.detach()) + COMMITMENT * F.mse_loss(
            latent, chosen.detach()
        )
        cost = math.log2(self.config.codes) * codes[0].numel()
        bits = torch.full((len(y),), cost, device=y.device)
        return Hyper(latent + (chosen - latent).detach(), bits, loss)

    def synthesise(self, y_hat: Tensor, planes: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """See LatentNetwork; the hint is the guide features."""
        z_c, guide = self.g_s(y_hat, self.rate(u))
        return z_c, guide

    def _nearest(self, latent: Tensor) -> Tensor:
        """Return the nearest code's index for each vector of latent [B, N, h, w]."""
        vectors = latent.float().permute(0, 2, 3, 1)
        book = self.codebook
        distance = book.square().sum(1) - 2 * vectors @ book.T
        return distance.argmin(-1)

    def _revive(self, latent: Tensor, codes: Tensor, generator: torch.Generator) -> None:
        """Move codes that are hardly chosen to vectors that occur (Zheng and Vedaldi 2023)."""
        if not self.codebook.requires_grad:  # then it decides bits that must stay
            return
        count = torch.bincount(codes.flatten(), minlength=self.config.codes).float()
        self.usage.lerp_(count / count.sum(), 1 - USAGE_DECAY)
        pull = torch.exp(-self.usage * (self.config.codes * 10 / (1 - USAGE_DECAY)) - 1e-3)
        vectors = latent.float().permute(0, 2, 3, 1).flatten(0, 2)
        pick = torch.randint(
            len(vectors), (self.config.codes,), generator=generator, device=vectors.device
        )
        self.codebook.lerp_(vectors[pick], pull[:, None])


def build(config: RdeicConfig, seed: int = 0) -> RdeicNetwork:
    """Return a network with seeded random weights; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RdeicNetwork(config)
