"""Noise schedules: how much of the image is left at every training step.

A schedule is nothing but `alpha_bar` (ᾱ; the CDC paper writes α_n) over the training steps, from
nearly clean (index 0) to nearly pure noise (the last index). It is computed in float64 from closed
forms, so that every machine has the same one, and rounded to float32 only where a tensor needs it.
Which of the steps a sampler visits is a list of indices, highest first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FloatArray: TypeAlias = npt.NDArray[np.float64]

COSINE_STEPS = 8193  # N_train of the x-prediction model, CDC paper, section 4
LINEAR_STEPS = 20_000  # N_train of the eps-prediction model, ibidem


@dataclass(frozen=True, eq=False)
class Schedule:
    """A diffusion process: x_n = sqrt(alpha_bar[n]) x_0 + sqrt(1 - alpha_bar[n]) eps.

    Attributes:
        alpha_bar: [N] float64, strictly falling within (0, 1), read-only.
    """

    alpha_bar: FloatArray

    def __post_init__(self) -> None:
        alpha_bar = np.array(self.alpha_bar, np.float64)
        if alpha_bar.ndim != 1 or not np.all(np.diff(alpha_bar, prepend=1.0, append=0.0) < 0):
            raise ValueError("alpha_bar must fall strictly from below 1 to above 0")
        alpha_bar.setflags(write=False)
        object.__setattr__(self, "alpha_bar", alpha_bar)

    def __len__(self) -> int:
        return len(self.alpha_bar)

    def rates(self, n: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of signal and noise at steps n [B], each [B, 1, 1, 1] float32."""
        alpha_bar = torch.from_numpy(self.alpha_bar.copy())[n.cpu()].view(-1, 1, 1, 1)
        # 1 - ᾱ is taken in float64: at n = 0 a float32 difference keeps three digits.
        signal, noise = alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()
        return signal.to(n.device), noise.to(n.device)

    def diffuse(self, x_0: Tensor, eps: Tensor, n: Tensor) -> Tensor:
        """Return x_n for x_0 [B, C, H, W], eps of that shape and steps n [B] (below eq. 2)."""
        signal, noise = self.rates(n)
        return signal * x_0 + noise * eps

    def snr(self, n: Tensor) -> Tensor:
        """Return alpha_bar / (1 - alpha_bar), the weight of the x_0 loss in eq. 6, for n [B]."""
        alpha_bar = torch.from_numpy(self.alpha_bar.copy())[n.cpu()]
        return (alpha_bar / (1 - alpha_bar)).float().to(n.device)


def from_betas(betas: FloatArray) -> Schedule:
    """Build a schedule from the variances beta_n [N] of the single steps (CDC paper, eq. 1)."""
    return Schedule(np.cumprod(1.0 - betas, dtype=np.float64))


def cosine(steps: int = COSINE_STEPS, offset: float = 0.008) -> Schedule:
    """Build the cosine schedule of Nichol and Dhariwal (2021, eq. 17), CDC's for x-prediction."""
    grid = np.linspace(0, 1, steps + 1)
    wave = np.cos((grid + offset) / (1 + offset) * np.pi * 0.5) ** 2
    wave = wave / wave[0]
    return from_betas(np.clip(1 - wave[1:] / wave[:-1], 0, 0.999))


def linear(
    steps: int = LINEAR_STEPS, first: float | None = None, last: float | None = None
) -> Schedule:
    """Build the linear schedule of Ho et al. (2020), CDC's for eps-prediction.

    Its betas run from 1e-4 to 0.02 at 1,000 steps. Elsewhere they are scaled by 1000 / steps unless
    given, which keeps the noise at the end nearly independent of the number of steps; CDC's paper
    gives no betas for its 20,000.
    """
    first = 1e-4 * 1000 / steps if first is None else first
    last = 0.02 * 1000 / steps if last is None else last
    return from_betas(np.linspace(first, last, steps))


def scaled_linear(steps: int = 1000, first: float = 0.00085, last: float = 0.012) -> Schedule:
    """Build a schedule with betas linear in their roots (Stable Diffusion's `linear`)."""
    return from_betas(np.linspace(first**0.5, last**0.5, steps) ** 2)


def timesteps(steps: int, n_train: int) -> list[int]:
    """Spread `steps` indices evenly over 0 .. n_train - 1, highest first, fractions rounded down.

    A single step is the highest index. CDC's choice in integer arithmetic: the authors take a
    float32 linspace, which for one count in nine (15 is the smallest) lands just below an integer
    and makes one index smaller by one.

    Raises:
        ValueError: There are fewer training steps than steps asked for, or none was asked for.
    """
    _check_count(steps, n_train)
    if steps == 1:
        return [n_train - 1]
    return [(n_train - 1) * k // (steps - 1) for k in reversed(range(steps))]


def trailing_timesteps(steps: int, n_train: int) -> list[int]:
    """Spread `steps` indices evenly from n_train - 1 down to (n_train - 1) / steps, highest first.

    The last step then still sees noise: `timesteps` ends at index 0, where x_n is the estimate of
    the step before, and a chain of two steps would never see what its noise is there for (Lin et
    al. 2024, "Common diffusion noise schedules and sample steps are flawed", table 2).

    Raises:
        ValueError: There are fewer training steps than steps asked for, or none was asked for.
    """
    _check_count(steps, n_train)
    return [(n_train - 1) * k // steps for k in range(steps, 0, -1)]


def spaced_timesteps(steps: int, n_train: int) -> list[int]:
    """Spread `steps` indices as `timesteps` does but round to the nearest index, ties to even.

    This is the respacing of Nichol and Dhariwal (2021) that DiffEIC and RDEIC use; RDEIC's n_train
    is its relay point, 300. A single step is the highest index (0 in the original, of no use).

    Raises:
        ValueError: There are fewer training steps than steps asked for, or none was asked for.
    """
    _check_count(steps, n_train)
    if steps == 1:
        return [n_train - 1]
    return [round((n_train - 1) * k / (steps - 1)) for k in reversed(range(steps))]


def _check_count(steps: int, n_train: int) -> None:
    if not 1 <= steps <= n_train:
        raise ValueError(f"{steps} sampling steps cannot be taken from {n_train} training steps")
