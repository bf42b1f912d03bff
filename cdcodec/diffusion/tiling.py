"""Large images in overlapping tiles, so that memory doesn't grow with the image.

Along either axis the tiles stand `tile - overlap` apart; the last is moved back to end with the
image, so all have one size and only the last overlap may be wider. Every seam is one ramp, the last
`overlap` pixels of the tile before it:

    weight 1 ┤────────╲   ╱─────────╲   ╱──────        before: 1 - r
             │         ╲ ╱           ╲ ╱               after:  r = (k + 1/2) / overlap
             │         ╱ ╲           ╱ ╲
           0 ┤        ╱   ╲─────────╱   ╲──────        pixel k of the ramp, k = 0, 1, …
                     overlap       overlap

As tile >= 2 overlap, ramps of one axis never touch and a pixel belongs to at most two tiles of a
row. It is blended as `before + r (after - before)`: where two tiles agree, the result is their
common value to the last bit, and where there is one tile it is that tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Float32Array: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Span:
    """The part of one axis that a tile covers, start .. stop - 1, in pixels of the whole image.

    Attributes:
        start: First pixel.
        stop: One past the last pixel.
        fade_in: Start and stop of the ramp shared with the tile before; empty for the first tile.
            Pixels before it are left to that tile.
        fade_out: Start and stop of the ramp shared with the tile after; empty for the last tile.
    """

    start: int
    stop: int
    fade_in: tuple[int, int]
    fade_out: tuple[int, int]

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Tile:
    """A window of the image and the ramps at its four sides."""

    rows: Span
    columns: Span

    @property
    def top(self) -> int:
        """First row."""
        return self.rows.start

    @property
    def left(self) -> int:
        """First column."""
        return self.columns.start

    @property
    def height(self) -> int:
        """Rows in pixels."""
        return len(self.rows)

    @property
    def width(self) -> int:
        """Columns in pixels."""
        return len(self.columns)


def tiles(height: int, width: int, tile: int, overlap: int, multiple: int) -> list[Tile]:
    """Cut an image into tiles of at most tile x tile pixels, in raster order.

    Args:
        height: Rows of the (padded) image, a multiple of `multiple`.
        width: Columns of the (padded) image, a multiple of `multiple`.
        tile: Side of a tile in pixels; an axis that isn't longer is not cut.
        overlap: Pixels that neighbours share, at most half a tile; 0 for hard seams.
        multiple: All windows start and end at multiples of this many pixels.

    Raises:
        ValueError: A length isn't such a multiple, or the overlap is more than half a tile.
    """
    lengths = (height, width, tile, overlap)
    if min(height, width, tile, multiple) < 1 or overlap < 0 or any(n % multiple for n in lengths):
        raise ValueError(f"{lengths} must be positive multiples of {multiple} pixels")
    if 2 * overlap > tile:
        raise ValueError(f"an overlap of {overlap} pixels is more than half of a {tile}-pixel tile")
    columns = _spans(width, tile, overlap)
    return [Tile(row, column) for row in _spans(height, tile, overlap) for column in columns]


def _spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Cut one axis of `length` pixels."""
    if length <= tile:
        return [Span(0, length, (0, 0), (length, length))]
    starts = [*range(0, length - tile, tile - overlap), length - tile]
    seams = [(start + tile - overlap, start + tile) for start in starts[:-1]]
    fade_in, fade_out = [(0, 0), *seams], [*seams, (length, length)]
    return [
        Span(start, start + tile, before, after)
        for start, before, after in zip(starts, fade_in, fade_out, strict=True)
    ]


def blend(
    windows: Sequence[Tile],
    render: Callable[[Tile], Float32Array],
    out: npt.NDArray[np.uint8] | npt.NDArray[np.float32],
) -> None:
    """Render all tiles and write the blended image into `out`.

    No more than one row of tiles is held at a time, whatever the height of the image.

    Args:
        windows: The tiles of the image, from `tiles`.
        render: Returns the pixels [C, height, width] of a tile, float32; for uint8 in 0..1.
        out: [H, W, C], written completely; a moved axis of a [C, H, W] array will do.
            uint8 takes floor(255 v + 1/2), clamped; float32 takes the values v as they are.
    """
    for top, rows in _strips(windows, render):
        _write(rows, out[top : top + rows.shape[1]])


def _strips(
    windows: Sequence[Tile], render: Callable[[Tile], Float32Array]
) -> Iterator[tuple[int, Float32Array]]:
    """Yield (first row, finished rows [C, rows, W]) from top to bottom."""
    above: Float32Array | None = None  # what the row of tiles before says about the ramp
    for span, row in groupby(windows, key=lambda window: window.rows):
        band = _band(list(row), render)
        (first, fade_in_stop), (fade_out, _) = span.fade_in, span.fade_out
        if above is not None:
            ramp = _ramp(fade_in_stop - first)[:, None]
            part = band[:, first - span.start : fade_in_stop - span.start]
            part[:] = above + ramp * (part - above)
        yield first, band[:, first - span.start : fade_out - span.start]
        above = band[:, fade_out - span.start :].copy()


def _band(row: Sequence[Tile], render: Callable[[Tile], Float32Array]) -> Float32Array:
    """Render one row of tiles and blend it from left to right into [C, height, W]."""
    band: Float32Array | None = None
    for window in row:
        span = window.columns
        pixels = render(window)
        if pixels.shape[1:] != (window.height, window.width):
            raise ValueError(
                f"rendered {pixels.shape[1:]} for a {window.height}x{window.width} tile"
            )
        if band is None:
            shape = len(pixels), window.height, row[-1].columns.stop
            band = np.empty(shape, np.float32)
        first, fade_in_stop = span.fade_in
        before = band[:, :, first:fade_in_stop]
        after = pixels[:, :, first - span.start : fade_in_stop - span.start]
        before += _ramp(fade_in_stop - first) * (after - before)
        band[:, :, fade_in_stop : span.stop] = pixels[:, :, fade_in_stop - span.start :]
    assert band is not None
    return band


def _ramp(length: int) -> Float32Array:
    """Return `length` weights that rise from 0 to 1, symmetric: ramp + reversed ramp = 1."""
    return ((np.arange(length) + 0.5) / max(length, 1)).astype(np.float32)


def _write(rows: Float32Array, out: npt.NDArray[np.uint8] | npt.NDArray[np.float32]) -> None:
    """Write rows [C, h, W] to out [h, W, C]."""
    pixels = np.moveaxis(rows, 0, -1)
    if out.dtype == np.uint8:
        pixels = np.clip(pixels * np.float32(255) + np.float32(0.5), 0, 255)
    out[...] = pixels.astype(out.dtype, copy=False)
