"""DISTS (Ding et al. 2020, "Image Quality Assessment: Unifying Structure and Texture Similarity").

A VGG-16 without its head, whose pooling is a blurred L2 norm, and one weight per channel for each
of the two similarities. The weights come from a safetensors file with these names:

    features.N.weight, features.N.bias   the 13 convolutions, numbered as in torchvision's vgg16
    alpha, beta                          [1, 1475, 1, 1], as in the authors' weights.pt

The layout is that of the authors' code, github.com/dingkeyan93/DISTS, DISTS_pytorch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdcodec.nn.published import frozen, read
from cdcodec.nn.vgg16 import STAGES, convolutions

_MEAN = (0.485, 0.456, 0.406)
_SPREAD = (0.229, 0.224, 0.225)
_TAP_CHANNELS = [3, *(width for _, width in STAGES)]  # the picture itself is the first tap
_STABLE = 1e-6  # c1 and c2 of eq. 5 and 6
_KERNEL = (0.25, 0.5, 0.25)  # a Hann window of 5, without its zeros


class Dists(nn.Module):
    """The distance of eq. 7: 0 for equal pictures, below 1."""

    def __init__(self) -> None:
        super().__init__()
        self.features = convolutions()
        self.alpha = nn.Parameter(torch.zeros(1, sum(_TAP_CHANNELS), 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, sum(_TAP_CHANNELS), 1, 1))
        self.mean: Tensor
        self.spread: Tensor
        self.register_buffer("mean", torch.tensor(_MEAN)[None, :, None, None], persistent=False)
        self.register_buffer("spread", torch.tensor(_SPREAD)[None, :, None, None], persistent=False)

    @classmethod
    def load(cls, path: Path) -> Dists:
        """Read the weights; they are frozen.

        Raises:
            WeightsError: If the file isn't there or isn't this network's.
        """
        return frozen(cls(), read(path, "DISTS"), path, "DISTS with a VGG-16 trunk")

    def taps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield x [B, 3, H, W] in 0..1, then the last map of each stage.

        One by one, since those of a large picture together fill gigabytes.
        """
        yield x
        x = (x - self.mean) / self.spread
        for stage, (numbers, _) in enumerate(STAGES):
            if stage:
                x = _l2_pool(x)
            for number in numbers:
                x = F.relu(self.features[str(number)](x))
            yield x

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the distance of x and y, both [B, 3, H, W] in 0..1, per picture [B]."""
        total = self.alpha.sum() + self.beta.sum()
        alphas = torch.split(self.alpha / total, _TAP_CHANNELS, 1)
        betas = torch.split(self.beta / total, _TAP_CHANNELS, 1)
        similarity = torch.zeros(len(x), device=x.device)
        for a, b, alpha, beta in zip(self.taps(x), self.taps(y), alphas, betas, strict=True):
            mean_a, mean_b = a.mean((2, 3), keepdim=True), b.mean((2, 3), keepdim=True)
            texture = (2 * mean_a * mean_b + _STABLE) / (mean_a**2 + mean_b**2 + _STABLE)
            a, b = a - mean_a, b - mean_b
            covariance = (a * b).mean((2, 3), keepdim=True)
            variances = (a * a).mean((2, 3), keepdim=True) + (b * b).mean((2, 3), keepdim=True)
            structure = (2 * covariance + _STABLE) / (variances + _STABLE)
            similarity = similarity + (alpha * texture + beta * structure).sum((1, 2, 3))
        return 1 - similarity


def _l2_pool(x: Tensor) -> Tensor:
    """Halve x [B, C, H, W]: the root of a blurred square (eq. 2)."""
    line = torch.tensor(_KERNEL, dtype=x.dtype, device=x.device)
    kernel = (line[:, None] * line).expand(x.shape[1], 1, 3, 3)
    return (F.conv2d(x * x, kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()
