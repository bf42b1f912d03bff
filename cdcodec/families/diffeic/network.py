"""The small DiffEIC networks: compression guided by the prior's latent (LFGCM), and its control.

Paper 003, sections III-A and III-B:

    x ──► g_a ──► y ──► · gain ──► space-channel context ──► y_hat ──► g_s ──► z_c
           ▲                                ▲                           ▲
          SFT                              h_s                          w
           │                                ▲                           ▲
    z_g ───┴─SFT─► h_a ──► z ──► coded ──► z_hat ───────────────────── f_c

Deviations of the small presets, each for the sake of one set of weights that a CPU can train and
run: gains on y make the rate variable, the networks have no normalisation and are told the rate,
the image enters g_a in blocks of 8x8 pixels, and a linear transform of z_g stands beside g_a and
g_s. w joins y_hat once, at the input of g_s, where the paper has SFT in between (eq. 5). The
control network has more than the paper's 20 % of the frozen one's width, as 20 % of a small network
is nearly nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdcodec.families.diffeic.config import DiffeicConfig
from cdcodec.latent.network import Hyper, LatentNetwork, ladder_at
from cdcodec.nn.blocks import Stack, Upsample, conv, round_through
from cdcodec.nn.losses import gaussian_bits

Z_INDEX_UNIT = 64.0
"""Table indices of z are trained in this unit, so that one learning rate suits all parameters."""


class Sft(nn.Module):
    """Scale and shift feature maps by external guidance (eq. 6 and 7)."""

    def __init__(self, guide: int, channels: int, width: int) -> None:
        super().__init__()
        self.enter = conv(guide, width)
        self.leave = conv(width, 2 * channels)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)

    def forward(self, h: Tensor, guide: Tensor) -> Tensor:
        """Map h [B, C, h, w] to the same shape; guide [B, G, h', w'] is resized to it."""
        resized = F.adaptive_avg_pool2d(guide, (h.shape[-2], h.shape[-1]))
        scale, shift = self.leave(F.leaky_relu(self.enter(resized), 0.1)).chunk(2, 1)
        tuned: Tensor = h * (1 + scale) + shift
        return tuned


class Analysis(nn.Module):
    """g_a, the paper's N_e: image and guidance to y."""

    def __init__(self, config: DiffeicConfig) -> None:
        super().__init__()
        a, b = config.widths
        self.stem = conv(192, a, kernel=1)
        self.guide8 = Sft(config.sizes_of_prior.latent, a, config.sft)
        self.stack8 = Stack(a, 2)
        self.down16 = conv(a, b, stride=2)
        self.guide16 = Sft(config.sizes_of_prior.latent, b, config.sft)
        self.stack16 = Stack(b, 1)
        self.head = conv(b, config.y_channels)
        self.linear = conv(4 * config.sizes_of_prior.latent, config.y_channels, kernel=1)

    def forward(self, x: Tensor, z_g: Tensor) -> Tensor:
        """Map x [B, 3, 16 h, 16 w] in -1..1 and z_g [B, C, 2h, 2w] to y [B, M, h, w]."""
        h = self.stack8(self.guide8(self.stem(F.pixel_unshuffle(x, 8)), z_g))
        h = self.stack16(self.guide16(self.down16(h), z_g))
        y: Tensor = self.head(h) + self.linear(F.pixel_unshuffle(z_g, 2))
        return y


class HyperAnalysis(nn.Module):
    """h_a, the paper's N_he: y and guidance to z, at 1/64."""

    def __init__(self, config: DiffeicConfig) -> None:
        super().__init__()
        width = config.hyper_width
        self.conv1 = conv(config.y_channels, width)
        self.guide = Sft(config.sizes_of_prior.latent, width, config.sft)
        self.conv2 = conv(width, width, stride=2)
        self.conv3 = conv(width, config.z_channels, stride=2)

    def forward(self, y: Tensor, z_g: Tensor) -> Tensor:
        """Map y [B, M, h, w] to [B, N, ceil(h/4), ceil(w/4)], replicating y's border."""
        height, width = y.shape[-2:]
        z_g = F.adaptive_avg_pool2d(z_g, (height, width))
        padding = (0, -width % 4, 0, -height % 4)
        y, z_g = (F.pad(t, padding, mode="replicate") for t in (y, z_g))
        h = F.leaky_relu(self.guide(self.conv1(y), z_g), 0.1)
        z: Tensor = self.conv3(F.leaky_relu(self.conv2(h), 0.1))
        return z


class Extraction(nn.Module):
    """f_c: z_hat to w, at the size of y; the same structure as the hyper-decoder (eq. 4)."""

    def __init__(self, config: DiffeicConfig) -> None:
        super().__init__()
        width = config.hyper_width
        self.conv1 = conv(config.z_channels, 4 * width)
        self.conv2 = conv(width, 4 * width)
        self.conv3 = conv(width, config.guide)

    def forward(self, z_hat: Tensor) -> Tensor:
        """Map z_hat [B, N, h, w] to w [B, G, 4 h, 4 w]."""
        h = F.pixel_shuffle(F.relu(self.conv1(z_hat)), 2)
        h = F.pixel_shuffle(F.relu(self.conv2(h)), 2)
        w: Tensor = self.conv3(h)
        return w


class Synthesis(nn.Module):
    """g_s, the paper's N_d: y_hat and w to content variables (eq. 5)."""

    def __init__(self, config: DiffeicConfig) -> None:
        super().__init__()
        a, b = config.widths
        d = config.condition
        self.stem = conv(config.y_channels + config.guide, b)
        self.stack16 = Stack(b, 2, d)
        self.up8 = Upsample(b, a)
        self.stack8 = Stack(a, 2, d)
        self.head = conv(a, config.sizes_of_prior.latent)
        self.linear = conv(config.y_channels, 4 * config.sizes_of_prior.latent, kernel=1)

    def forward(self, y_hat: Tensor, w: Tensor, rate: Tensor) -> Tensor:
        """Map y_hat [B, M, h, w] and w [B, G, h, w] to z_c [B, C, 2h, 2w]."""
        h = self.stack16(self.stem(torch.cat([y_hat, w.to(y_hat.dtype)], 1)), rate)
        h = self.stack8(self.up8(h), rate)
        z_c: Tensor = F.pixel_shuffle(self.linear(y_hat), 2) + self.head(F.leaky_relu(h, 0.1))
        return z_c


class DiffeicNetwork(LatentNetwork):
    """All trained parameters of one weight set, in float."""

    def __init__(self, config: DiffeicConfig) -> None:
        super().__init__(config, config.z_channels, config.sizes_of_prior.latent)
        self.config: DiffeicConfig = config
        self.g_a = Analysis(config)
        self.g_s = Synthesis(config)
        self.h_a = HyperAnalysis(config)
        self.f_c = Extraction(config)
        self.z_scale = nn.Parameter(torch.full((config.anchors, config.z_channels), 0.25))

    def analyse(self, x: Tensor, features: Tensor, z_0: Tensor) -> Tensor:
        """See LatentNetwork; the features are not looked at."""
        y: Tensor = self.g_a(x, z_0)
        return y

    def z_index(self, u: Tensor) -> Tensor:
        """Return the table index of every channel of z [B, N, 1, 1], a real number."""
        return Z_INDEX_UNIT * ladder_at(self.z_scale, u)[:, :, None, None]

    def hyper_latent(self, y: Tensor, z_0: Tensor, u: Tensor) -> tuple[str, Tensor]:
        """Return z [B, N, ceil(h/4), ceil(w/4)], rounded."""
        return "z", self.h_a(y * self.gain(u), z_0).round()

    def planes(self, hyper: Tensor) -> Tensor:
        """Return z itself."""
        return hyper.float()

    def hyper(self, y: Tensor, z_0: Tensor, u: Tensor, generator: torch.Generator) -> Hyper:
        """Round z, and count its bits under noise."""
        z = self.h_a(y * self.gain(u), z_0)
        noise = torch.rand(z.shape, generator=generator, device=z.device) - 0.5
        bits = gaussian_bits(z + noise, self.z_index(u)).sum((1, 2, 3))
        return Hyper(round_through(z), bits, torch.zeros((), device=z.device))

    def synthesise(self, y_hat: Tensor, planes: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """See LatentNetwork; z_c is the hint as well."""
        z_c = self.g_s(y_hat, self.f_c(planes), self.rate(u))
        return z_c, z_c


def build(config: DiffeicConfig, seed: int = 0) -> DiffeicNetwork:
    """Return a network with seeded random weights; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DiffeicNetwork(config)
