"""The colours of all palettes as the payload of a chunk; formats/families.md has it for others.

A palette is sorted, so it is coded from its ends inwards: first both ends, then the entry halfway
between each two that are known. The first channel lies between theirs; of each other channel,
values near those of entries that are known are likely.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cdcodec.bitstream.binary import ByteReader
from cdcodec.codec import IntArray
from cdcodec.entropy.coder import Coder, Reader, Writer
from cdcodec.errors import BitstreamError
from cdcodec.families.palette.chain import MAX_ENTRIES, keys

LEVELS = 256
"""Values of a channel."""

WIDTH = 8
"""How far values may be apart and still make each other a quarter as likely as themselves."""

FLOOR = 2**13
"""What every value has at least, for each entry that gives its own value 2**24."""

Int64 = NDArray[np.int64]

# [v, u]: what an entry of value v adds to the likelihood of u.
_VALUES = np.arange(LEVELS)
_NEAR = FLOOR + 2**24 * WIDTH**4 // np.square(WIDTH**2 + np.square(_VALUES - _VALUES[:, None]))


def pack(palettes: Sequence[IntArray]) -> bytes:
    """Return the payload of palettes, int32 [K, C] each, 0..255, sorted and without duplicates.

    Raises:
        ValueError: A palette breaks one of these rules.
    """
    writer = Writer()
    for palette in palettes:
        if not 1 <= len(palette) <= MAX_ENTRIES or palette.min() < 0 or palette.max() >= LEVELS:
            raise ValueError(f"a palette has 1..{MAX_ENTRIES} entries of 0..{LEVELS - 1}")
        if not _is_sorted(palette):
            raise ValueError("a palette is not sorted, or has an entry twice")
        _code(writer, palette, *palette.shape)
    return bytes(len(palette) - 1 for palette in palettes) + writer.finish()


def unpack(payload: bytes, groups: int, channels: int) -> list[IntArray]:
    """Return the palettes, int32 [K, channels] each, of a payload.

    Raises:
        BitstreamError: If nothing packs to it.
        DesyncError: If the stream doesn't end with the last palette.
    """
    fields = ByteReader(payload)
    sizes = [fields.u8("number of colours") + 1 for _ in range(groups)]
    reader = Reader(fields.read_exactly(fields.remaining))
    palettes = [_code(reader, None, size, channels) for size in sizes]
    reader.finish()
    if not all(map(_is_sorted, palettes)):
        raise BitstreamError("colours of a palette are not in order")
    return palettes


def _is_sorted(palette: IntArray) -> bool:
    return bool((np.diff(keys(palette)) > 0).all())


def _code(coder: Coder, palette: IntArray | None, entries: int, channels: int) -> IntArray:
    """Code one palette and return it, int32 [entries, channels]; it need not be sorted."""
    done = np.zeros((entries, channels), np.int64)
    likely = np.zeros((channels, LEVELS), np.int64)
    for batch, before, after in _halves(entries):
        for channel in range(channels):
            if not likely.any():
                weights = np.ones((len(batch), LEVELS), np.int64)
            elif channel == 0:
                weights = _between(done[before, 0], done[after, 0])
            else:
                weights = np.tile(likely[channel], (len(batch), 1))
            values = None if palette is None else palette[batch, channel]
            done[batch, channel] = coder.rows("clut", values, weights)
        likely += _NEAR[done[batch]].sum(0)
    return done.astype(np.int32)


def _halves(entries: int) -> list[tuple[Int64, Int64, Int64]]:
    """Return batches of places, each with the known places before and after it."""
    ends = np.arange(min(entries, 2)) * (entries - 1)
    batches = [(ends, ends, ends)]
    while len(ends) < entries:
        wide = np.flatnonzero(np.diff(ends) > 1)
        before, after = ends[wide], ends[wide + 1]
        middle = (before + after) // 2
        batches.append((middle, before, after))
        ends = np.sort(np.concatenate([ends, middle]))
    return batches


def _between(low: Int64, high: Int64) -> Int64:
    """Return weights [n, 256] of the middle of what lies between: halfway is likeliest.

    A damaged file's ends may be in the wrong order; it is refused at the end.
    """
    above, below = _VALUES - low[:, None] + 1, high[:, None] - _VALUES + 1
    weights: Int64 = np.square(np.maximum(above, 0) * np.maximum(below, 0))
    weights[weights.sum(1) == 0] = 1
    return weights
