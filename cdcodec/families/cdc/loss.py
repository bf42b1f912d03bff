"""What CDC's training has to itself: its rate term (paper 001, eq. 3) and its ladder of rates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cdcodec.families.cdc.network import CdcNetwork
from cdcodec.nn.blocks import round_through
from cdcodec.nn.device import autocast
from cdcodec.nn.losses import gaussian_bits


@dataclass(frozen=True)
class Coded:
    """What the decoder gets for a batch, and what it costs.

    Attributes:
        y_hat: [B, M, h, w], gains undone; gradients pass the rounding.
        bpp: Bits per pixel of every image [B].
    """

    y_hat: Tensor
    bpp: Tensor


def code(network: CdcNetwork, x: Tensor, u: Tensor, generator: torch.Generator) -> Coded:
    """Run the encoder with noise in place of rounding where bits are counted (eq. 3).

    Args:
        network: In training.
        x: Images [B, 3, H, W] in -1..1.
        u: Rate positions [B] in 0..1.
        generator: Source of the uniform noise.
    """
    with autocast(x.device):
        y = network.g_a(x)
    gain, z_index = network.gains(u)
    y_g = y.float() * gain
    z = network.h_a(y_g)
    mean, index = network.h_s(round_through(z), *y.shape[-2:])
    noise_z, noise_y = (
        torch.rand(t.shape, generator=generator, device=x.device) - 0.5 for t in (z, y_g)
    )
    bits = gaussian_bits(z + noise_z, z_index).sum((1, 2, 3))
    bits = bits + gaussian_bits(y_g - mean + noise_y, index).sum((1, 2, 3))
    y_hat = (round_through(y_g - mean) + mean) / gain
    return Coded(y_hat, bits / (x.shape[-1] * x.shape[-2]))


def lagrangian(network: CdcNetwork, u: Tensor) -> Tensor:
    """Lambda at rate positions u [B]: bits per pixel against squared error on 0..255."""
    low, high = network.config.lambda_range
    return low * (high / low) ** u


def balance(lam: Tensor) -> Tensor:
    """Weigh images of a batch with 1/sqrt(lambda), else the high rates dominate."""
    return (1e-3 / lam).sqrt()


def freeze_bits(network: CdcNetwork) -> None:
    """Stop all gradients into what decides bits, so that files stay what they were."""
    for parameter in network.entropy_parameters():
        parameter.requires_grad_(False)
