"""Gaussian noise addressed by position: a value depends on (seed, draw, channel, y, x) only.

Any crop of the noise is the noise of that crop, so tiles agree with the whole image; and since only
integers are drawn, the same seed gives the same noise on every machine and with every release of
numpy or torch:

    (x // 8, y, channel, draw)  ──Philox4x32-10, key = seed──►  four 32-bit words
    word (x % 8) // 2, its low half for even x, high half for odd x  ──►  16 bits  ──table──►  value

Philox is the counter-based generator of Salmon et al., "Parallel random numbers: as easy as 1, 2,
3" (2011); numpy's own one can only be stepped from one start and has no promise of a stable stream
behind `standard_normal`.
"""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Float32Array: TypeAlias = npt.NDArray[np.float32]
Words: TypeAlias = npt.NDArray[np.uint64]

PIXELS_PER_BLOCK = 8
LEVELS = 1 << 16
BLOCKS_PER_STRIP = 1 << 13  # keeps the temporaries of a strip inside a core's cache

_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10


def gaussian(
    seed: int, top: int, left: int, height: int, width: int, channels: int, *, draw: int = 0
) -> Float32Array:
    """Return standard normal noise [channels, height, width] of the window at (top, left).

    Args:
        seed: 0 .. 2**64 - 1.
        top: First row of the window in the whole image.
        left: First column of the window in the whole image.
        height: Rows of the window.
        width: Columns of the window.
        channels: Number of channels, counted from 0.
        draw: Number of the noise image, for samplers that need a fresh one at every step.

    Raises:
        ValueError: The seed or the window lies outside of its range.
    """
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed {seed} is outside of 0 .. 2**64 - 1")
    corners = top, left, height, width, channels, draw, top + height, left + width
    if min(corners) < 0 or max(corners) >= 1 << 32:
        raise ValueError("the window lies outside of the plane of noise")
    noise = np.empty((channels, height, width), np.float32)
    if noise.size == 0:
        return noise
    first_block, last_block = left // PIXELS_PER_BLOCK, (left + width - 1) // PIXELS_PER_BLOCK
    columns = np.arange(first_block, last_block + 1, dtype=np.uint64)
    skip = left - first_block * PIXELS_PER_BLOCK
    strip = max(BLOCKS_PER_STRIP // len(columns), 1)
    for channel in range(channels):
        for start in range(0, height, strip):
            stop = min(start + strip, height)
            rows = np.arange(top + start, top + stop, dtype=np.uint64)[:, None]
            counter = columns, rows, np.uint64(channel), np.uint64(draw)
            bits = _uniform_bits(counter, seed, len(rows), len(columns))
            noise[channel, start:stop] = _inverse_normal()[bits[:, skip : skip + width]]
    return noise


def _uniform_bits(
    counter: tuple[Words, Words, np.uint64, np.uint64], seed: int, rows: int, blocks: int
) -> npt.NDArray[np.uint16]:
    """Return 16 random bits for each pixel of a strip, [rows, blocks * 8]."""
    bits = np.empty((rows, blocks, PIXELS_PER_BLOCK), np.uint16)
    for k, word in enumerate(philox(counter, seed)):
        bits[:, :, 2 * k] = word & np.uint64(0xFFFF)
        bits[:, :, 2 * k + 1] = word >> np.uint64(16)
    return bits.reshape(rows, blocks * PIXELS_PER_BLOCK)


def philox(
    counter: tuple[Words | np.uint64, Words | np.uint64, Words | np.uint64, Words | np.uint64],
    key: int,
) -> tuple[Words | np.uint64, Words | np.uint64, Words | np.uint64, Words | np.uint64]:
    """Return the four 32-bit words of Philox4x32-10 (Salmon et al. 2011, section 3.3).

    Words are held in uint64, so that a product fits. Those of the counter may have any shapes that
    broadcast together; the key has 64 bits, its low half comes first.
    """
    c_0, c_1, c_2, c_3 = counter
    low, high = key & 0xFFFFFFFF, key >> 32
    for _ in range(_ROUNDS):
        product_0, product_1 = c_0 * _MULTIPLIERS[0], c_2 * _MULTIPLIERS[1]
        c_0, c_1, c_2, c_3 = (
            (product_1 >> _HALF) ^ c_1 ^ np.uint64(low),
            product_1 & _MASK,
            (product_0 >> _HALF) ^ c_3 ^ np.uint64(high),
            product_0 & _MASK,
        )
        low, high = (low + _WEYL[0]) & 0xFFFFFFFF, (high + _WEYL[1]) & 0xFFFFFFFF
    return c_0, c_1, c_2, c_3


@lru_cache(maxsize=1)
def _inverse_normal() -> Float32Array:
    """Return the normal quantiles of (k + 1/2) / 2**16 for k = 0 .. 2**16 - 1.

    They are rounded to multiples of 2**-20, which float32 holds exactly: a last digit that differs
    between two machines' logarithms cannot survive that. One half is computed and mirrored.
    """
    quantile = NormalDist().inv_cdf
    tail = np.array([quantile((k + 0.5) / LEVELS) for k in range(LEVELS // 2)])
    tail = np.rint(tail * 2**20) / 2**20
    return np.concatenate([tail, -tail[::-1]]).astype(np.float32)
