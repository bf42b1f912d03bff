"""Whole pictures through networks, tile by tile.

Memory depends on the size of a tile, not on that of the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdcodec.diffusion import tiling
from cdcodec.diffusion.samplers import Progress
from cdcodec.errors import InputError

ANALYSIS_TILE = 1024
ANALYSIS_MARGIN = 128
"""Pixels around a tile that an encoder sees beside it; no receptive field reaches further."""

OVERLAP = 128
"""Pixels that neighbouring tiles share when pictures are decoded."""

Pixels: TypeAlias = NDArray[np.uint8]
Integers: TypeAlias = NDArray[np.int32]

Render: TypeAlias = Callable[[tiling.Tile, Progress], Tensor]
"""Tile, and what to call after every step → x_0 [1, 3, H, W] in -1..1 of that tile."""


def analyse(
    g_a: Callable[[Tensor], Tensor], pixels: Pixels, stride: int, device: torch.device
) -> Tensor:
    """Run g_a, which maps x [1, 3, H, W] in -1..1 to 1/stride of that, on pixels [H, W, 3].

    Args:
        g_a: The encoder.
        pixels: Padded as the encoder needs it.
        stride: Pixels per sample of what comes out; ANALYSIS_MARGIN is a multiple of it.
        device: Where g_a runs.

    Returns:
        [M, H/stride, W/stride] on the CPU.
    """
    height, width = pixels.shape[:2]
    y: Tensor | None = None
    for top in range(0, height, ANALYSIS_TILE):
        for left in range(0, width, ANALYSIS_TILE):
            bottom, right = min(top + ANALYSIS_TILE, height), min(left + ANALYSIS_TILE, width)
            above, before = min(top, ANALYSIS_MARGIN), min(left, ANALYSIS_MARGIN)
            window = pixels[
                top - above : bottom + ANALYSIS_MARGIN, left - before : right + ANALYSIS_MARGIN
            ]
            tile = g_a(to_tensor(window, device))[0]
            if y is None:
                y = torch.empty(len(tile), height // stride, width // stride)
            y[:, top // stride : bottom // stride, left // stride : right // stride] = tile[
                :,
                above // stride : (above + bottom - top) // stride,
                before // stride : (before + right - left) // stride,
            ]
    assert y is not None
    return y


def crop(y: Integers, window: tiling.Tile, stride: int, device: torch.device) -> Tensor:
    """Return the part of y [..., h, w] that lies in a tile, as float32 [1, ..., h', w']."""
    at = np.s_[
        ...,
        window.top // stride : (window.top + window.height) // stride,
        window.left // stride : (window.left + window.width) // stride,
    ]
    return torch.from_numpy(y[at].astype(np.float32)).to(device)[None]


def synthesise(
    render: Render,
    height: int,
    width: int,
    *,
    multiple: int,
    tile: int,
    steps: int,
    overlap: int = OVERLAP,
    progress: Progress | None = None,
) -> Pixels:
    """Render pixels [height, width, 3] in overlapping tiles.

    Args:
        render: Makes a tile.
        height: Of the padded picture, a multiple of `multiple`.
        width: Likewise.
        multiple: Tiles start and end at multiples of so many pixels.
        tile: Side of a tile.
        steps: How often render reports progress for each tile.
        overlap: Pixels that neighbouring tiles share.
        progress: Called with steps done and steps in all.

    Raises:
        InputError: If tiles of that side don't start and end there.
    """
    check_tile(tile, multiple, overlap)
    windows = tiling.tiles(height, width, tile, overlap, multiple)
    total = steps * len(windows)
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


def check_tile(tile: int, multiple: int, overlap: int = OVERLAP) -> None:
    """Check the side of a tile.

    Raises:
        InputError: If pictures can't be rendered in such tiles.
    """
    if tile < 2 * overlap or tile % multiple:
        raise InputError(
            f"{tile} pixels are no side of a tile",
            hint=f"multiples of {multiple} from {2 * overlap} are",
        )


def to_tensor(pixels: Pixels, device: torch.device) -> Tensor:
    """Map pixels [H, W, 3] to x [1, 3, H, W] in -1..1."""
    x = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
    x = x.permute(2, 0, 1)[None].float() / 127.5 - 1
    return x.contiguous(memory_format=torch.channels_last)
