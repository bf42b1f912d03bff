"""A patch discriminator, for decoders that have to invent texture."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from cdcodec.nn.device import autocast


class PatchDiscriminator(nn.Module):
    """Tells photographs from decoded pictures, patch by patch, given the base decode.

    Isola et al. 2017's PatchGAN with spectral normalisation (Miyato et al. 2018). It sees the
    candidate beside the base decode, so that it judges the texture that was added, not the content.
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        widths = [6, width, 2 * width, 4 * width]
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(a, b, 4, stride=2, padding=1))
            for a, b in zip(widths, widths[1:], strict=False)
        )
        self.mix = spectral_norm(nn.Conv2d(widths[-1], widths[-1], 3, padding=1))
        self.head = spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, candidate: Tensor, base: Tensor) -> Tensor:
        """Return scores [B, 1, H/8, W/8], high for photographs, of images [B, 3, H, W] in -1..1."""
        h = torch.cat([candidate, base], 1)
        for layer in self.layers:
            h = F.leaky_relu(layer(h), 0.2)
        h = F.leaky_relu(self.mix(h), 0.2)
        scores: Tensor = self.head(h)
        return scores


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Return the discriminator's loss (Lim and Ye 2017)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


class Adversary:
    """A discriminator that learns beside the network it judges."""

    def __init__(self, device: torch.device, learning_rate: float) -> None:
        self.discriminator = PatchDiscriminator().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(
            self.discriminator.parameters(), lr=learning_rate, betas=(0.5, 0.99)
        )

    def opinion(self, candidate: Tensor, base: Tensor) -> Tensor:
        """Return the mean score of pictures; gradients reach the candidate only."""
        self.discriminator.requires_grad_(False)
        with autocast(candidate.device):
            scores: Tensor = self.discriminator(candidate, base)
        return scores.float().mean()

    def learn(self, real: Tensor, fake: Tensor, base: Tensor) -> float:
        """Make one update on photographs and decoded pictures, and return its loss."""
        self.discriminator.requires_grad_(True)
        with autocast(real.device):
            loss = hinge(
                self.discriminator(real, base).float(), self.discriminator(fake, base).float()
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()
