"""What a network predicts, made one thing: a denoiser that maps (x_t, n) to an estimate of x_0.

The samplers know nothing else. A family wraps its network once, with everything else it needs
(context, rate, its own encoding of the step index) bound by closure: `from_x0(lambda x_t, n:
unet(x_t, n / 8193, context), limit=1.0)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from cdcodec.diffusion.schedules import FloatArray

Network: TypeAlias = Callable[[Tensor, int], Tensor]
"""(x_t [B, C, H, W], index of the training step) -> prediction of the same shape."""

Denoiser: TypeAlias = Callable[[Tensor, int], Tensor]
"""(x_t [B, C, H, W], index of the training step) -> x_0 of the same shape."""


def from_x0(network: Network, *, limit: float | None = None) -> Denoiser:
    """Wrap a network that predicts x_0 itself; clamp the estimate to ±limit, if there is one."""

    def denoise(x_t: Tensor, n: int) -> Tensor:
        return _clamp(network(x_t, n), limit)

    return denoise


def from_eps(network: Network, alpha_bar: FloatArray, *, limit: float | None = None) -> Denoiser:
    """Wrap a network that predicts the noise: x_0 = (x_t - sqrt(1 - ᾱ) eps) / sqrt(ᾱ).

    CDC paper, above eq. 8, where α is our ᾱ.
    """

    def denoise(x_t: Tensor, n: int) -> Tensor:
        signal, noise = rates(alpha_bar, n)
        return _clamp((x_t - noise * network(x_t, n)) / signal, limit)

    return denoise


def from_v(network: Network, alpha_bar: FloatArray, *, limit: float | None = None) -> Denoiser:
    """Wrap a network that predicts v: x_0 = sqrt(ᾱ) x_t - sqrt(1 - ᾱ) v.

    Salimans and Ho (2022), section 4.
    """

    def denoise(x_t: Tensor, n: int) -> Tensor:
        signal, noise = rates(alpha_bar, n)
        return _clamp(signal * x_t - noise * network(x_t, n), limit)

    return denoise


def rates(alpha_bar: FloatArray, n: int) -> tuple[float, float]:
    """Return the factors (sqrt(ᾱ), sqrt(1 - ᾱ)) of signal and noise at step n."""
    return math.sqrt(alpha_bar[n]), math.sqrt(1 - alpha_bar[n])


def _clamp(x_0: Tensor, limit: float | None) -> Tensor:
    return x_0 if limit is None else x_0.clamp(-limit, limit)
