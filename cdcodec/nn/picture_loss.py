"""How far decoded pictures are from their originals, for decoders that draw texture.

Three opinions stand side by side, because a network that is trained on one alone learns to flatter
it: distances in two frozen trunks, under random shifts, flips and sizes of all pictures, and a
discriminator on the maps of one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from cdcodec.nn.device import autocast
from cdcodec.nn.discriminator import hinge
from cdcodec.nn.efficientnet import EfficientNetLite
from cdcodec.nn.perceptual import Lpips

MIXED = 64
"""Channels that each map of the trunk is mixed to at random, for the discriminator."""

SCALES = (0.75, 1.0, 1.0, 1.25)
"""Factors that pictures are resized by before they are compared, drawn evenly."""

LARGEST_MARGIN = 48
"""Rows and columns, at most, that a random crop takes away before pictures are compared."""


@dataclass(frozen=True)
class Comparison:
    """What pictures are worth, each per image [B].

    Attributes:
        lpips: Distance in LPIPS's SqueezeNet, channels weighted as LPIPS does.
        trunk: Distance in EfficientNet-Lite0.
        opinion: Mean score of the discriminator, high for what it takes for a photograph.
    """

    lpips: Tensor
    trunk: Tensor
    opinion: Tensor


class ProjectedDiscriminator(nn.Module):
    """Tells photographs from decoded pictures by a frozen trunk's maps (Sauer et al. 2021).

    Maps are mixed at random, so that no channel can be neglected, and stand beside those of the
    faithful picture that the chain began with: what was added is judged, not what is shown.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.mixers = nn.ModuleList(nn.Conv2d(c, MIXED, 1, bias=False) for c in channels)
        for mixer, count in zip(self.mixers, channels, strict=True):
            nn.init.normal_(mixer.weight, std=count**-0.5)  # type: ignore[arg-type]
        self.mixers.requires_grad_(False)
        self.heads = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv2d(2 * MIXED, MIXED, 3, padding=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(MIXED, MIXED, 3, padding=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(MIXED, 1, 1)),
            )
            for _ in channels
        )

    def forward(self, candidate: Sequence[Tensor], faithful: Sequence[Tensor]) -> list[Tensor]:
        """Return a map of scores per scale, high for photographs, from the trunk's maps."""
        return [
            head(torch.cat([mixer(a), mixer(b)], 1)).float()
            for mixer, head, a, b in zip(self.mixers, self.heads, candidate, faithful, strict=True)
        ]


class PictureLoss:
    """Two frozen trunks, and a discriminator that learns beside the network it judges."""

    def __init__(self, lpips: Path, device: torch.device, learning_rate: float) -> None:
        """Load the trunks.

        Args:
            lpips: File with the weights of LPIPS.
            device: Where pictures are.
            learning_rate: Adam's, for the discriminator.

        Raises:
            WeightsError: If LPIPS's weights can't be read.
            InputError: If the extra `train` isn't installed.
        """
        self.lpips = Lpips.load(lpips).to(device)
        self.trunk = EfficientNetLite().to(device)
        self.discriminator = ProjectedDiscriminator(self.trunk.channels).to(device)
        self.optimizer = torch.optim.Adam(
            self.discriminator.heads.parameters(), lr=learning_rate, betas=(0.5, 0.99)
        )
        self._seen: list[list[Tensor]] = []

    def compare(
        self, x_0: Tensor, x: Tensor, faithful: Tensor, generator: torch.Generator
    ) -> Comparison:
        """Compare pictures with their originals; gradients reach the pictures only.

        Args:
            x_0: The pictures [B, 3, H, W] in -1..1.
            x: Their originals, likewise.
            faithful: The pictures that the chain began with, likewise.
            generator: Source of shift, flip and size, which are the same for all.
        """
        warped = _warp(torch.cat([x_0, x, faithful]), generator)
        with autocast(x.device):
            squeeze = [tap.float() for tap in self.lpips.taps(warped[: 2 * len(x)])]
            maps = self.trunk(warped)
        heads = [head.float() for head in self.lpips.heads]
        lpips = sum(map(_distance, squeeze, heads), start=torch.zeros((), device=x.device))
        of_trunk = [_distance(each[: 2 * len(x)]) for each in maps]

        fake, real, began = ([each.chunk(3)[k] for each in maps] for k in range(3))
        self.discriminator.requires_grad_(False)
        with autocast(x.device):
            scores = self.discriminator(fake, began)
        opinion = torch.stack([each.mean((1, 2, 3)) for each in scores]).mean(0)
        self._seen = [[each.detach() for each in of] for of in (fake, real, began)]
        return Comparison(lpips, torch.stack(of_trunk).mean(0), opinion)

    def learn(self) -> float:
        """Make one update of the discriminator on what was compared last; return its loss."""
        fake, real, began = self._seen
        self.discriminator.heads.requires_grad_(True)
        with autocast(real[0].device):
            of_real, of_fake = self.discriminator(real, began), self.discriminator(fake, began)
        loss = torch.stack([hinge(a, b) for a, b in zip(of_real, of_fake, strict=True)]).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()


def _distance(maps: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean distance [B] of two pictures' maps [2 B, C, H, W], scaled to unit length.

    The distance is the norm over channels, and not its square as in LPIPS: gradients are as strong
    where little is missing.
    """
    unit = maps / (maps.square().sum(1, keepdim=True) + 1e-6).sqrt()
    a, b = unit.chunk(2)
    squares = (a - b).square()
    if weights is not None:
        squares = squares * weights
    return (squares.sum(1) + 1e-5).sqrt().mean((1, 2))


def _warp(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Crop, flip and resize pictures [B, 3, H, W], all in the same random way."""

    def draw(below: int) -> int:
        return int(torch.randint(below, (), generator=generator, device=pictures.device))

    side = min(pictures.shape[-2:])
    kept = side - min(LARGEST_MARGIN, side // 4) * draw(4) // 3
    top, left = draw(side - kept + 1), draw(side - kept + 1)
    pictures = pictures[..., top : top + kept, left : left + kept]
    if draw(2):
        pictures = pictures.flip(3)
    scale = SCALES[draw(len(SCALES))]
    if scale == 1:
        return pictures
    size = max(16, round(kept * scale) // 16 * 16)
    return F.interpolate(
        pictures, size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )
