"""How all presets of CDC make a picture from noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cdcodec.codec import Decoding, Progress
from cdcodec.diffusion import noise, samplers, schedules, tiling
from cdcodec.diffusion.prediction import Denoiser


def sample(
    denoise: Denoiser,
    schedule: schedules.Schedule,
    indices: Sequence[int],
    window: tiling.Tile,
    decoding: Decoding,
    device: torch.device,
    step: Progress,
) -> Tensor:
    """Return x_0 [1, 3, H, W] in -1..1 of one tile; all tiles share one field of noise.

    The decoder ddim is paper 001, eq. 7.

    Args:
        denoise: (x_t, n) to x_0.
        schedule: The diffusion process.
        indices: Its steps to visit, highest first.
        window: The tile.
        decoding: Decoder, seed and stochasticity.
        device: Where the networks run.
        step: Told of every step.
    """
    assert decoding.stochasticity is not None
    gamma = decoding.stochasticity

    def draw(number: int) -> Tensor:
        field = noise.gaussian(
            decoding.seed, window.top, window.left, window.height, window.width, 3, draw=number
        )
        return gamma * torch.from_numpy(field).to(device)[None]

    if decoding.decoder == "ddpm":
        return samplers.ddpm(denoise, draw(0), indices, schedule.alpha_bar, draw, step)
    return samplers.ddim(denoise, draw(0), indices, schedule.alpha_bar, step)
