"""Samplers: pure functions from a start state to an image, given a denoiser and the steps to visit.

All of them take `denoise(x_t, n) -> x_0` (see `prediction`), the indices of the training steps,
highest first (see `schedules.timesteps`), and `alpha_bar` (`Schedule.alpha_bar`). The last visit
returns the denoiser's estimate itself. Noise is an argument, never drawn here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from cdcodec.diffusion.noise import gaussian
from cdcodec.diffusion.prediction import Denoiser, rates
from cdcodec.diffusion.schedules import FloatArray

Progress: TypeAlias = Callable[[int, int], None]
"""Called after every step with (steps done, steps in all)."""


def ddim(
    denoise: Denoiser,
    x: Tensor,
    indices: Sequence[int],
    alpha_bar: FloatArray,
    progress: Progress | None = None,
) -> Tensor:
    """Sample by DDIM with eta = 0 (Song et al. 2021, eq. 12; CDC paper, eq. 7).

    From x [B, C, H, W], the state at indices[0]; deterministic.
    """
    for done, n in enumerate(indices, start=1):
        x_0 = denoise(x, n)
        if done < len(indices):
            signal, noise = rates(alpha_bar, n)
            signal_next, noise_next = rates(alpha_bar, indices[done])
            eps = (x - signal * x_0) / noise
            x = signal_next * x_0 + noise_next * eps
        else:
            x = x_0  # ᾱ after the last step is 1
        if progress is not None:
            progress(done, len(indices))
    return x


def ddpm(
    denoise: Denoiser,
    x: Tensor,
    indices: Sequence[int],
    alpha_bar: FloatArray,
    noise: Callable[[int], Tensor],
    progress: Progress | None = None,
) -> Tensor:
    """Sample by DDPM with the posterior's mean and variance (Ho et al. 2020, eq. 7).

    From x [B, C, H, W], the state at indices[0]. Between indices that are not neighbours the
    process is the one of the same alpha_bar on fewer steps. `noise(k)` gives standard normal noise
    of x's shape for the k-th step, k = 1, 2, …; it is not asked for the last step, which adds none.
    """
    for done, n in enumerate(indices, start=1):
        x_0 = denoise(x, n)
        if done < len(indices):
            left, left_next = float(alpha_bar[n]), float(alpha_bar[indices[done]])
            alpha = left / left_next
            of_x_0 = math.sqrt(left_next) * (1 - alpha) / (1 - left)
            of_x = math.sqrt(alpha) * (1 - left_next) / (1 - left)
            deviation = math.sqrt((1 - alpha) * (1 - left_next) / (1 - left))
            x = of_x_0 * x_0 + of_x * x + deviation * noise(done)
        else:
            x = x_0
        if progress is not None:
            progress(done, len(indices))
    return x


def relay(
    denoise: Denoiser,
    z_c: Tensor,
    indices: Sequence[int],
    alpha_bar: FloatArray,
    noise: Callable[[int], Tensor],
    progress: Progress | None = None,
) -> Tensor:
    """Sample from content variables with a little noise (RDEIC, paper 002, eq. 2 to 6).

    The start is z_N = sqrt(ᾱ_N) z_c + sqrt(1 - ᾱ_N) noise(0) at N = indices[0]. From there on it is
    `ddpm`: the residual z_c - z_0 is part of what the network takes for noise. The authors' sampler
    cannot take a single step; here it returns the estimate at N.
    """
    signal, deviation = rates(alpha_bar, indices[0])
    start = signal * z_c + deviation * noise(0)
    return ddpm(denoise, start, indices, alpha_bar, noise, progress)


def noise_tensor(
    seed: int,
    channels: int,
    height: int,
    width: int,
    *,
    top: int = 0,
    left: int = 0,
    draw: int = 0,
    gamma: float = 1.0,
) -> Tensor:
    """Return gamma times standard normal noise, [1, channels, height, width] float32 on the CPU.

    The state x_N that CDC starts from (gamma = 0.8; 0 for the deterministic decode), and the noise
    of a `ddpm` step with `draw` the number of that step. A tile passes its own top and left and
    gets its part of the whole image's noise.
    """
    if gamma == 0:
        return torch.zeros(1, channels, height, width)
    return (
        gamma
        * torch.from_numpy(gaussian(seed, top, left, height, width, channels, draw=draw))[None]
    )
