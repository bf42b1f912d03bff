"""What all presets of CDC do around their networks: analyse and sample pictures in tiles.

Memory depends on the size of a tile, not on that of the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdcodec.codec import DecoderInfo, Decoding, IntArray, Pixels, Progress
from cdcodec.diffusion import noise, samplers, schedules, tiling
from cdcodec.diffusion.prediction import Denoiser
from cdcodec.errors import InputError
from cdcodec.families.cdc.walk import Y_STRIDE

ANALYSIS_TILE = 1024
ANALYSIS_MARGIN = 128
"""Pixels around a tile that g_a sees beside it: its receptive field reaches 124, the paper's 47."""

OVERLAP = 128
"""Pixels that neighbouring tiles share when pictures are decoded."""

Render: TypeAlias = Callable[[tiling.Tile, Progress], Tensor]
"""Tile, and what to call after every step → x_0 [1, 3, H, W] in -1..1 of that tile."""


def decoders(steps: int) -> dict[str, DecoderInfo]:
    """List what `sample` offers, for networks that do best with so many steps."""
    return {
        "ddim": DecoderInfo(
            "deterministic steps from noise (paper 001, eq. 7)", steps, stochasticity=0.8
        ),
        "ddpm": DecoderInfo("fresh noise in every step", steps, stochasticity=0.8),
    }


def analyse(g_a: Callable[[Tensor], Tensor], pixels: Pixels, device: torch.device) -> Tensor:
    """Run g_a on pixels [H, W, 3], padded as it needs; returns y [M, H/16, W/16] on the CPU."""
    height, width = pixels.shape[:2]
    y: Tensor | None = None
    for top in range(0, height, ANALYSIS_TILE):
        for left in range(0, width, ANALYSIS_TILE):
            bottom, right = min(top + ANALYSIS_TILE, height), min(left + ANALYSIS_TILE, width)
            above, before = min(top, ANALYSIS_MARGIN), min(left, ANALYSIS_MARGIN)
            window = pixels[
                top - above : bottom + ANALYSIS_MARGIN, left - before : right + ANALYSIS_MARGIN
            ]
            tile = g_a(_to_tensor(window, device))[0]
            if y is None:
                y = torch.empty(len(tile), height // Y_STRIDE, width // Y_STRIDE)
            rows = slice(top // Y_STRIDE, bottom // Y_STRIDE)
            columns = slice(left // Y_STRIDE, right // Y_STRIDE)
            y[:, rows, columns] = tile[
                :,
                above // Y_STRIDE : (above + bottom - top) // Y_STRIDE,
                before // Y_STRIDE : (before + right - left) // Y_STRIDE,
            ]
    assert y is not None
    return y


def crop(y: IntArray, window: tiling.Tile, device: torch.device) -> Tensor:
    """Return the part of integers y [M, h, w] that lies in a tile, as float32 [1, M, h', w']."""
    at = np.s_[
        :,
        window.top // Y_STRIDE : (window.top + window.height) // Y_STRIDE,
        window.left // Y_STRIDE : (window.left + window.width) // Y_STRIDE,
    ]
    return torch.from_numpy(y[at].astype(np.float32)).to(device)[None]


def synthesise(
    render: Render,
    y: IntArray,
    multiple: int,
    decoding: Decoding,
    progress: Progress | None = None,
) -> Pixels:
    """Render the pixels [16 h, 16 w, 3] that y [M, h, w] stands for in overlapping tiles.

    Tiles start and end at multiples of `multiple` pixels.

    Raises:
        InputError: If tiles of the side that was asked for don't.
    """
    tile = decoding.tile
    if tile < 2 * OVERLAP or tile % multiple:
        raise InputError(
            f"{tile} pixels are no side of a tile",
            hint=f"multiples of {multiple} from {2 * OVERLAP} are",
        )
    rows, columns = y.shape[1:]
    height, width = rows * Y_STRIDE, columns * Y_STRIDE
    windows = tiling.tiles(height, width, tile, OVERLAP, multiple)
    assert decoding.steps is not None
    total = decoding.steps * len(windows)
    done = 0

    def step(_done: int, _total: int) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    def pixels_of(window: tiling.Tile) -> NDArray[np.float32]:
        x = render(window, step)
        return (x[0] * 0.5 + 0.5).float().cpu().numpy()

    out = np.empty((height, width, 3), np.uint8)
    tiling.blend(windows, pixels_of, out)
    return out


def sample(
    denoise: Denoiser,
    schedule: schedules.Schedule,
    window: tiling.Tile,
    decoding: Decoding,
    device: torch.device,
    step: Progress,
) -> Tensor:
    """Return x_0 [1, 3, H, W] in -1..1 of one tile; all tiles share one field of noise."""
    assert decoding.steps is not None
    assert decoding.stochasticity is not None
    gamma = decoding.stochasticity
    indices = schedules.timesteps(decoding.steps, len(schedule))

    def draw(number: int) -> Tensor:
        field = noise.gaussian(
            decoding.seed, window.top, window.left, window.height, window.width, 3, draw=number
        )
        return gamma * torch.from_numpy(field).to(device)[None]

    if decoding.decoder == "ddpm":
        return samplers.ddpm(denoise, draw(0), indices, schedule.alpha_bar, draw, step)
    return samplers.ddim(denoise, draw(0), indices, schedule.alpha_bar, step)


def _to_tensor(pixels: Pixels, device: torch.device) -> Tensor:
    """Map pixels [H, W, 3] to x [1, 3, H, W] in -1..1."""
    x = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
    x = x.permute(2, 0, 1)[None].float() / 127.5 - 1
    return x.contiguous(memory_format=torch.channels_last)
