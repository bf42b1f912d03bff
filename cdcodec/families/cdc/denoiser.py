"""The denoising half of CDC: a U-Net that predicts x_0 (paper 001, eq. 6 and App. B).

Deviations of the small presets from the paper, each for the sake of a CPU: the network works on
4x4 blocks of pixels laid out as channels, has no attention and no normalisation, and is told the
rate point besides the noise level. x_t is scaled by sqrt(alpha_bar) on its way in, so that the
first step, where x_t is pure noise, depends on the file alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdcodec.families.cdc.config import CdcConfig
from cdcodec.nn.blocks import Embedding, Stack, Upsample, conv


class Denoiser(nn.Module):
    """X_theta(x_t, n/N, context): one U-Net evaluation."""

    def __init__(self, config: CdcConfig) -> None:
        super().__init__()
        a, b, c = config.widths
        p, q, r = config.unet_widths
        down = [depth // 2 for depth in config.unet_depths]
        up = [depth - half for depth, half in zip(config.unet_depths, down, strict=True)]
        d = config.condition
        self.time = Embedding(d)
        self.stem4 = conv(48 + 48 + a, p)
        self.down4 = Stack(p, down[0], d)
        self.shrink8 = conv(p, q, stride=2)
        self.stem8 = conv(q + b, q)
        self.down8 = Stack(q, down[1], d)
        self.shrink16 = conv(q, r, stride=2)
        self.stem16 = conv(r + c, r, kernel=1)
        self.middle = Stack(r, config.unet_depths[2], d)
        self.grow8 = Upsample(r, q)
        self.join8 = conv(2 * q, q, kernel=1)
        self.up8 = Stack(q, up[1], d)
        self.grow4 = Upsample(q, p)
        self.join4 = conv(2 * p, p, kernel=1)
        self.up4 = Stack(p, up[0], d)
        self.head = conv(p, 48)

    def forward(
        self,
        x_t: Tensor,
        noise_level: Tensor,
        signal: Tensor,
        context: tuple[Tensor, Tensor, Tensor, Tensor],
        rate: Tensor,
    ) -> Tensor:
        """Predict x_0 [B, 3, H, W] in -1..1 (not clamped).

        Args:
            x_t: [B, 3, H, W], H and W multiples of 16.
            noise_level: n/N [B] in 0..1.
            signal: sqrt(alpha_bar_n) [B].
            context: Linear estimate of x_0, maps at 1/4, 1/8 and 1/16.
            rate: Embedded rate point [B, D].
        """
        linear, at4, at8, at16 = context
        condition = self.time(noise_level) + rate
        x = F.pixel_unshuffle(x_t * signal[:, None, None, None], 4)
        start = torch.cat([x.to(at4.dtype), F.pixel_unshuffle(linear, 4).to(at4.dtype), at4], 1)
        h4 = self.down4(self.stem4(start), condition)
        h8 = self.down8(self.stem8(torch.cat([self.shrink8(h4), at8], 1)), condition)
        h16 = self.stem16(torch.cat([self.shrink16(h8), at16], 1))
        h16 = self.middle(h16, condition)
        h = self.up8(self.join8(torch.cat([self.grow8(h16), h8], 1)), condition)
        h = self.up4(self.join4(torch.cat([self.grow4(h), h4], 1)), condition)
        return linear + F.pixel_shuffle(self.head(h), 4).float()
