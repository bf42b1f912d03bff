"""CGDM's post-processor (paper 004, sec. 3.2): two encoders and a decoder.

    x_tilde ─► consistency encoder ─► e_0 … e_N
    x_t ─────► diffusion encoder ───► d_0 … d_N
    u_N = SFF_N(d_N, e_N, s);  u_i = SFF_i(d_i + up(u_(i+1)), e_i, s);  u_0 ─► head ─► eps

The consistency encoder doesn't see the step: it runs once a picture.

Beyond the paper: d_i joins what comes up from the coarser scale (eq. 4 has the latter alone), as
the paper's U-Net has skips; the decoder's blocks see the step too; there is no normalisation, which
would tie a patch to its surroundings; the small presets work on 4x4 blocks of pixels laid out as
channels, for the sake of a CPU.

What the decoder puts out is the residual r of x_0 against x_tilde; the noise that the paper's
network predicts follows from it: eps = (x_t - sqrt(alpha_bar) (x_tilde + r)) / sqrt(1 - alpha_bar).
A network of this size that puts out eps itself leaves a thousandth of the noise wrong, and where
nearly all is noise that is a wrong colour; so put, it can't stray from x_tilde, which is what the
consistency is for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdcodec.families.cgdm.config import TRAIN_STEPS, CgdmConfig
from cdcodec.families.cgdm.fusion import SyntaxFusion
from cdcodec.families.cgdm.syntax import UNIT, SyntaxGenerator
from cdcodec.nn.blocks import Embedding, Stack, Upsample, conv


class Encoder(nn.Module):
    """A picture to maps at N scales; with a condition where the picture is noisy."""

    def __init__(self, config: CgdmConfig, depths: Sequence[int], condition: int = 0) -> None:
        super().__init__()
        self.block = config.block
        before = (3 * config.block**2, *config.widths[:-1])
        self.stems = nn.ModuleList(
            conv(a, b, stride=1 if i == 0 else 2)
            for i, (a, b) in enumerate(zip(before, config.widths, strict=True))
        )
        self.stacks = nn.ModuleList(
            Stack(width, depth, condition)
            for width, depth in zip(config.widths, depths, strict=True)
        )

    def forward(self, x: Tensor, condition: Tensor | None = None) -> list[Tensor]:
        """Map x [B, 3, H, W], sides multiples of the stride, to maps, the finest first."""
        h = F.pixel_unshuffle(x, self.block)
        maps = []
        for stem, stack in zip(self.stems, self.stacks, strict=True):
            h = stack(stem(h), condition)
            maps.append(h)
        return maps


class CgdmNetwork(nn.Module):
    """All trained parameters of one weight set."""

    def __init__(self, config: CgdmConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.syntax = SyntaxGenerator(config)
        self.time = Embedding(config.condition)
        self.diffusion = Encoder(config, config.diffusion, config.condition)
        self.consistency = Encoder(config, config.consistency)
        code = config.syntax + config.condition
        self.fusions = nn.ModuleList(
            SyntaxFusion(code, config.fusion, width, config.rank) for width in widths
        )
        self.stacks = nn.ModuleList(
            Stack(width, depth, config.condition)
            for width, depth in zip(widths, config.decoder, strict=True)
        )
        self.grows = nn.ModuleList(Upsample(b, a) for a, b in zip(widths, widths[1:], strict=False))
        self.head = conv(widths[0], 3 * config.block**2)
        with torch.no_grad():
            assert self.head.bias is not None
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()

    def features(self, x_tilde: Tensor) -> list[Tensor]:
        """Return the consistency features e_0 … e_N of x_tilde [B, 3, H, W] in -1..1."""
        maps: list[Tensor] = self.consistency(x_tilde)
        return maps

    def residual(self, x_t: Tensor, t: Tensor, features: Sequence[Tensor], s: Tensor) -> Tensor:
        """Estimate x_0 - x_tilde [B, 3, H, W].

        Args:
            x_t: [B, 3, H, W].
            t: Steps [B], 0..999.
            features: Of x_tilde.
            s: Syntax vectors [B, S] in whole steps.
        """
        emb = self.time(t.float() / (TRAIN_STEPS - 1))
        code = torch.cat([s / UNIT, emb], 1)
        h: Tensor | None = None
        noisy = self.diffusion(x_t, emb)
        for i in reversed(range(len(noisy))):
            d = noisy[i] if h is None else noisy[i] + self.grows[i](h)
            h = self.stacks[i](self.fusions[i](features[i], d, code), emb)
        return F.pixel_shuffle(self.head(h), self.config.block).float()


def build(config: CgdmConfig, seed: int = 0) -> CgdmNetwork:
    """Return a network with seeded random weights; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CgdmNetwork(config)
