"""The deterministic half of CDC: analysis, hyperprior and context pyramid (paper 001, App. B).

         x ─► g_a ─► y ─► · gain ─► y_g ───────────► ⌊y_g − mean⌉ ─► coded
                                    │                     ▲
                                   h_a ─► ⌊z⌉ ─► coded ─► h_s ─► mean, table index
context pyramid ◄─ context ◄─ / gain ◄─ y_hat
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdcodec.families.cdc.config import CdcConfig
from cdcodec.nn.blocks import Stack, Upsample, conv

Z_INDEX_UNIT = 64.0
"""Table indices of z are trained in this unit, so that one learning rate suits all parameters."""


class Analysis(nn.Module):
    """g_a: image to y, at 1/16: a linear transform of 16x16 blocks plus a convolutional network.

    The linear half starts as the Karhunen-Loève transform of photographs (see start), so that a
    network of this size need not spend its training on finding what is known.
    """

    def __init__(self, config: CdcConfig) -> None:
        super().__init__()
        a, b, c = config.widths
        self.stem = conv(48, a)
        self.stack4 = Stack(a, config.depths[0])
        self.down8 = conv(a, b, stride=2)
        self.stack8 = Stack(b, config.depths[1])
        self.down16 = conv(b, c, stride=2)
        self.stack16 = Stack(c, config.depths[2])
        self.head = conv(c, config.y_channels)
        self.linear = conv(3 * 16 * 16, config.y_channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, 3, H, W] in -1..1, H and W multiples of 16, to y [B, M, H/16, W/16]."""
        h = self.stack4(self.stem(F.pixel_unshuffle(x, 4)))
        h = self.stack8(self.down8(h))
        h = self.stack16(self.down16(h))
        y: Tensor = self.head(h) + self.linear(F.pixel_unshuffle(x, 16))
        return y


class HyperAnalysis(nn.Module):
    """h_a: y to the hyper-latent z, at 1/64."""

    def __init__(self, config: CdcConfig) -> None:
        super().__init__()
        width = config.hyper_width
        self.conv1 = conv(config.y_channels, width)
        self.conv2 = conv(width, width, stride=2)
        self.conv3 = conv(width, config.z_channels, stride=2)

    def forward(self, y: Tensor) -> Tensor:
        """Map y [B, M, h, w] to z [B, N, ceil(h/4), ceil(w/4)], replicating y's border."""
        height, width = y.shape[-2:]
        y = F.pad(y, (0, -width % 4, 0, -height % 4), mode="replicate")
        # asinh tames the means of blocks, which are ten times as large as anything else.
        h = F.leaky_relu(self.conv1(torch.asinh(y)), 0.1)
        z: Tensor = self.conv3(F.leaky_relu(self.conv2(h), 0.1))
        return z


class HyperSynthesis(nn.Module):
    """h_s: z_hat to mean and table index of every element of y.

    Three convolutions, ReLU and pixel shuffle only: training/export.py turns exactly this shape
    into an integer network.
    """

    def __init__(self, config: CdcConfig) -> None:
        super().__init__()
        width = config.hyper_width
        self.conv1 = conv(config.z_channels, 4 * width)
        self.conv2 = conv(width, 4 * width)
        self.conv3 = conv(width, 2 * config.y_channels)
        with torch.no_grad():
            assert self.conv3.bias is not None
            self.conv3.bias[config.y_channels :] = 16.0

    def forward(self, z: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Map z [B, N, h, w] to (mean, index), both [B, M, height, width].

        The index runs over 0..63 and stands for sigma = 0.11 (256/0.11)^(index/63).
        """
        h = F.pixel_shuffle(F.relu(self.conv1(z)), 2)
        h = F.pixel_shuffle(F.relu(self.conv2(h)), 2)
        mean, index = self.conv3(h)[..., :height, :width].chunk(2, 1)
        return mean, index


class Context(nn.Module):
    """y_hat to the context pyramid that conditions the denoiser (paper: 'embedder').

    Its first map is the image that the linear half of g_a, undone, gives; the denoiser refines it.
    """

    def __init__(self, config: CdcConfig) -> None:
        super().__init__()
        a, b, c = config.widths
        self.stem = conv(config.y_channels, c)
        self.stack16 = Stack(c, config.depths[2], config.condition)
        self.up8 = Upsample(c, b)
        self.stack8 = Stack(b, config.depths[1], config.condition)
        self.up4 = Upsample(b, a)
        self.stack4 = Stack(a, 1, config.condition)
        self.linear = conv(config.y_channels, 3 * 16 * 16, kernel=1)

    def forward(self, y_hat: Tensor, rate: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Decode y_hat [B, M, h, w] at rate [B, D].

        Returns:
            The linear estimate of x_0 [B, 3, H, W] and maps at 1/4, 1/8 and 1/16 of the image.
        """
        # In bfloat16 a smooth sky would have steps of half a grey level.
        with torch.autocast(y_hat.device.type, enabled=False):
            linear = F.pixel_shuffle(self.linear(y_hat.float()), 16)
        at16 = self.stack16(self.stem(y_hat), rate)
        at8 = self.stack8(self.up8(at16), rate)
        at4 = self.stack4(self.up4(at8), rate)
        return linear, at4, at8, at16


class Gains(nn.Module):
    """Per-channel gains on y and scales of z's prior, at a ladder of rate anchors.

    One set of weights serves every rate: y is multiplied by the gain before it is rounded and
    divided by it afterwards. Between anchors gains are interpolated geometrically (the paper
    trains one network per rate; a user wants one file for all).
    """

    def __init__(self, config: CdcConfig) -> None:
        super().__init__()
        low, high = config.lambda_range
        ladder = torch.linspace(0, 1, config.anchors)[:, None]
        # Squared error falls with the square of the step, so the best gain grows as sqrt(lambda).
        log_gain = 0.5 * torch.log(torch.tensor(high / low)) * (ladder - 0.5)
        self.log_gain = nn.Parameter(log_gain.repeat(1, config.y_channels))
        self.z_scale = nn.Parameter(torch.full((config.anchors, config.z_channels), 0.25))

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return (gain [B, M, 1, 1], z_index [B, N, 1, 1]) at rate positions u [B] in 0..1."""
        return (
            self._at(self.log_gain, u).exp()[:, :, None, None],
            Z_INDEX_UNIT * self._at(self.z_scale, u)[:, :, None, None],
        )

    @staticmethod
    def _at(ladder: Tensor, u: Tensor) -> Tensor:
        position = u * (len(ladder) - 1)
        left = position.floor().clamp(0, len(ladder) - 2).long()
        fraction = (position - left)[:, None]
        return ladder[left] * (1 - fraction) + ladder[left + 1] * fraction
