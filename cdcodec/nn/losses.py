"""Terms of training losses that several families share: rate, distortion, energy of detail."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

SIGMA_MIN, SIGMA_MAX, SCALES = 0.11, 256.0, 64


class Bounded(torch.autograd.Function):
    """Clamp a table index to 0..63; outside, only gradients that lead back inside pass.

    With none, an index that once left could never return; with all, indices of elements that are
    nearly always zero would run away, because a narrower Gaussian always suits them better.
    """

    @staticmethod
    def forward(ctx: Any, index: Tensor) -> Tensor:
        """Clamp index, of any shape."""
        ctx.save_for_backward(index)
        return index.clamp(0, SCALES - 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Descent moves against the gradient: below 0 it must be negative, above 63 positive."""
        (index,) = ctx.saved_tensors
        blocked = ((index < 0) & (gradient > 0)) | ((index > SCALES - 1) & (gradient < 0))
        return gradient.masked_fill(blocked, 0.0)


def gaussian_bits(value: Tensor, index: Tensor) -> Tensor:
    """Bits of value under a zero-mean Gaussian integrated over unit intervals, elementwise.

    Args:
        value: Distance from the mean, noisy or rounded, any shape.
        index: Table index 0..63 in float, broadcastable; clamped.
    """
    index = Bounded.apply(index)  # type: ignore[no-untyped-call]
    sigma = SIGMA_MIN * torch.exp(index * (math.log(SIGMA_MAX / SIGMA_MIN) / (SCALES - 1)))
    value = value.abs()
    upper = torch.special.ndtr((0.5 - value) / sigma)
    lower = torch.special.ndtr((-0.5 - value) / sigma)
    return -torch.log2((upper - lower).clamp_min(1e-9))


def distortion(x_0: Tensor, x: Tensor, colour: float, hue: float) -> Tensor:
    """Squared error on 0..255 per image [B], with more weight on colour than pixels would give it.

    The commonest fault of small models at low rates is a colour cast, which the eye sees long
    before the plain squared error does.

    Args:
        x_0: Estimate [B, 3, H, W] in -1..1.
        x: Original, likewise.
        colour: Weight of the squared error of 8x8 block means.
        hue: Weight of the part of that error which isn't grey: what is left of the three channels'
            errors when their mean is taken away.
    """
    error = x_0 - x
    blocks = F.avg_pool2d(error, 8)
    tint = blocks - blocks.mean(1, keepdim=True)
    plain, cast, shift = (t.square().mean((1, 2, 3)) for t in (error, blocks, tint))
    return (plain + colour * cast + hue * shift) * (255.0**2 / 4)


def detail_energy(x_0: Tensor, x: Tensor) -> Tensor:
    """Compare how much fine detail two images [B, 3, H, W] in -1..1 have, place by place.

    The mean absolute difference of the logarithms of local band-pass energy at three scales: it
    asks for texture of the right strength and leaves open which.
    """
    total = torch.zeros((), device=x.device)
    a, b = (t.mean(1, keepdim=True) for t in (x_0, x))
    for _ in range(3):
        small_a, small_b = (F.avg_pool2d(t, 2) for t in (a, b))
        bands = [
            t - F.interpolate(small, scale_factor=2, mode="bilinear")
            for t, small in ((a, small_a), (b, small_b))
        ]
        energy_a, energy_b = (F.avg_pool2d(t.square(), 8, 4) + 1e-4 for t in bands)
        total = total + (energy_a.log() - energy_b.log()).abs().mean()
        a, b = small_a, small_b
    return total / 3


def grid_energy(x_0: Tensor, x: Tensor) -> Tensor:
    """Measure grids of periods 4 and 16, of which photographs [B, 3, H, W] in -1..1 have none.

    The networks draw blocks of 4x4 pixels upon blocks of 16x16, and the perceptual terms hardly
    mind a faint grid; the eye does. For each place in a block the error is averaged over many
    blocks, some hundred, so that true errors cancel; what is left there, less the mean of all
    places, is grid. Squared, on 0..255.
    """
    total = torch.zeros((), device=x.device)
    for period, pieces in ((4, 3), (16, 1)):
        places = F.adaptive_avg_pool2d(F.pixel_unshuffle(x_0 - x, period), pieces)
        places = places.reshape(len(x), 3, period**2, pieces, pieces)
        grid = places - places.mean(2, keepdim=True)
        total = total + grid.square().mean() * (255.0**2 / 4)
    return total


@torch.no_grad()
def psnr(x_0: Tensor, x: Tensor) -> float:
    """Mean PSNR of a batch in dB, both in -1..1."""
    error = F.mse_loss(x_0.clamp(-1, 1), x, reduction="none").mean((1, 2, 3))
    return float((10 * torch.log10(4 / error.clamp_min(1e-9))).mean())


def rate_positions(x: Tensor, generator: torch.Generator) -> Tensor:
    """Draw u [B] in 0..1, stratified: every batch has low and high rates."""
    strata = torch.arange(len(x), device=x.device)
    return (strata + torch.rand(len(x), generator=generator, device=x.device)) / len(x)
