"""A frozen latent prior: an autoencoder and an eps-predicting U-Net on its latents.

One interface, two implementations: SmallPrior, which this project trains and ships, and Stable
Diffusion in `stable_diffusion`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdcodec.nn.blocks import Stack, Upsample, conv
from cdcodec.nn.unet import BlockUnet, SmallUnet, UnetShape

LATENT_STRIDE = 8
"""Pixels per latent sample."""


class LatentPrior(Protocol):
    """What a family needs of a latent prior; it is never trained with the family."""

    @property
    def unet(self) -> BlockUnet:
        """The eps-predicting U-Net, block by block; its process is schedules.scaled_linear()."""

    @property
    def latent_channels(self) -> int:
        """Channels of z."""

    @property
    def feature_channels(self) -> int:
        """Channels of features."""

    def features(self, x: Tensor) -> Tensor:
        """Map x [B, 3, H, W] in -1..1 to what the encoder's last layer sees [B, F, H/8, W/8]."""

    def latent(self, features: Tensor) -> Tensor:
        """Map features to z_0 [B, C, H/8, W/8], of about unit variance."""

    def decode(self, z: Tensor) -> Tensor:
        """Map z [B, C, h, w] to an image [B, 3, 8 h, 8 w] in about -1..1."""


@dataclass(frozen=True)
class PriorConfig:
    """Sizes of the small prior.

    Attributes:
        latent: Channels of z. Stable Diffusion has 4; an autoencoder of a hundredth of its size
            makes less of a channel, and gets 8.
        linear: Components of the linear transform of 8x8 blocks among the features.
        encoder: Channels at 1/4 and 1/8 of the image, on the way down; their sum with `linear` is
            what features has at 1/8.
        decoder: Channels at 1/2, 1/4 and 1/8 on the way up.
        decoder_depths: Residual blocks there.
        unet_widths: Channels of the U-Net at 1/8, 1/16 and 1/32.
        unet_down: Residual blocks there on the way down; unet_up: on the way up.
        condition: Length of the U-Net's time vector.
    """

    latent: int = 8
    linear: int = 12
    encoder: tuple[int, int] = (64, 84)
    encoder_depths: tuple[int, int] = (2, 2)
    decoder: tuple[int, int, int] = (32, 64, 112)
    decoder_depths: tuple[int, int, int] = (2, 3, 4)
    unet_widths: tuple[int, int, int] = (64, 96, 128)
    unet_down: tuple[int, int, int] = (2, 1, 1)
    unet_up: tuple[int, int, int] = (2, 2, 1)
    condition: int = 64

    @property
    def features(self) -> int:
        """Channels of the features that the encoder's last layer sees."""
        return self.encoder[1] + self.linear

    @property
    def unet_shape(self) -> UnetShape:
        """What a control network has to know of the U-Net."""
        rising = tuple(reversed(self.unet_widths))
        return UnetShape(self.unet_widths, self.unet_widths[-1], rising)


NANO = PriorConfig()
TINY = PriorConfig(
    latent=4,
    linear=4,
    encoder=(8, 8),
    encoder_depths=(1, 1),
    decoder=(4, 8, 8),
    decoder_depths=(1, 1, 1),
    unet_widths=(8, 8, 12),
    unet_down=(1, 1, 1),
    unet_up=(1, 1, 1),
    condition=8,
)
PRESETS = {"nano": NANO, "tiny": TINY}


class Encoder(nn.Module):
    """Image to latent at 1/8: a linear transform of 8x8 blocks beside a convolutional network."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        a, b = config.encoder
        self.stem = conv(48, a)
        self.stack4 = Stack(a, config.encoder_depths[0])
        self.down8 = conv(a, b, stride=2)
        self.stack8 = Stack(b, config.encoder_depths[1])
        self.linear = conv(192, config.linear, kernel=1)
        self.head = conv(b + config.linear, config.latent)

    def features(self, x: Tensor) -> Tensor:
        """Map x [B, 3, H, W] to [B, F, H/8, W/8], what the head sees."""
        h = self.stack4(self.stem(F.pixel_unshuffle(x, 4)))
        h = F.leaky_relu(self.stack8(self.down8(h)), 0.1)
        return torch.cat([h, self.linear(F.pixel_unshuffle(x, 8))], 1)


class Decoder(nn.Module):
    """Latent to image: the linear transform undone, and a network that refines it."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        a, b, c = config.decoder
        self.stem = conv(config.latent, c)
        self.stack8 = Stack(c, config.decoder_depths[2])
        self.up4 = Upsample(c, b)
        self.stack4 = Stack(b, config.decoder_depths[1])
        self.up2 = Upsample(b, a)
        self.stack2 = Stack(a, config.decoder_depths[0])
        self.head = conv(a, 12)
        self.linear = conv(config.latent, 192, kernel=1)

    def forward(self, z: Tensor) -> Tensor:
        """Map z [B, C, h, w] to [B, 3, 8 h, 8 w]."""
        with torch.autocast(z.device.type, enabled=False):  # a smooth sky must not get steps
            linear = F.pixel_shuffle(self.linear(z.float()), 8)
        h = self.stack4(self.up4(self.stack8(self.stem(z))))
        h = self.stack2(self.up2(h))
        return linear + F.pixel_shuffle(self.head(h), 2).float()


class SmallPrior(nn.Module):
    """The prior that ships with the package; see LatentPrior.

    Attributes:
        shift: Mean of the encoder's output, [1, C, 1, 1]; not trained but measured.
        scale: Its standard deviation.
    """

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.unet = SmallUnet(
            config.latent,
            config.unet_widths,
            config.unet_down,
            config.unet_up,
            config.condition,
        )
        statistics = 1, config.latent, 1, 1
        self.shift = nn.Parameter(torch.zeros(statistics), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(statistics), requires_grad=False)

    @property
    def latent_channels(self) -> int:
        """See LatentPrior."""
        return self.config.latent

    @property
    def feature_channels(self) -> int:
        """See LatentPrior."""
        return self.config.features

    def features(self, x: Tensor) -> Tensor:
        """See LatentPrior."""
        return self.encoder.features(x)

    def raw_latent(self, features: Tensor) -> Tensor:
        """Return the latent before it is normalised."""
        raw: Tensor = self.encoder.head(features).float()
        return raw

    def latent(self, features: Tensor) -> Tensor:
        """See LatentPrior."""
        return (self.raw_latent(features) - self.shift) / self.scale

    def decode(self, z: Tensor) -> Tensor:
        """See LatentPrior."""
        image: Tensor = self.decoder(z * self.scale + self.shift)
        return image


def build(config: PriorConfig, seed: int = 0) -> SmallPrior:
    """Return a prior with seeded random weights; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallPrior(config)
