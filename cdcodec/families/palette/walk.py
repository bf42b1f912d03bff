"""The entropy-coded half of the palette family: palettes in their chunk, then the index maps.

formats/families.md describes it for other implementations. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdcodec.bitstream.container import ChunkType
from cdcodec.codec import IntArray, Latents
from cdcodec.entropy.coder import Coder
from cdcodec.errors import BitstreamError, DesyncError, WeightsError
from cdcodec.families.palette import clut, indices
from cdcodec.families.palette.chain import check_size, counted, quantise
from cdcodec.families.palette.indices import MAX_GROUPS, IndexModel
from cdcodec.families.palette.ladder import MOST_STEPS, POINTS, Ladder, heights, steps_below
from cdcodec.weight_file import EXACT_PREFIX, read_exact

STRIDE = 8
"""Pixels a latent sample stands for, along each axis."""

MAX_CHANNELS = 7
"""Most channels of a group: a colour is a number of 63 bits."""

FEW_ENTRIES = 30
PLACE_BITS, SPREAD_BITS = 1.75, 0.3
"""Of a place where neighbours differ: with few entries in all palettes, and more for every doubling
of them. Found on photographs, where it is right to 15 %."""

ENTRY_BYTES, FRAME_BYTES = 2, 50
"""Of an entry's colour, and of all else in a file; about."""

ENCODER_BYTES = 8
"""Length of what names the encoder."""


def shape_of(width: int, height: int) -> tuple[int, int]:
    """Return rows and columns of the latent of an image of width x height pixels."""
    return -(-height // STRIDE), -(-width // STRIDE)


class PaletteWalk:
    """Palettes and index maps of one weight set; see codec.SideWalk and codec.ScalableWalk.

    Attributes:
        groups: Groups of the latent's channels, each with a palette.
        channels: Channels of a group.
        weights: What a squared error counts for when entries are merged, by group.
        index_model: How index maps are coded.
        encoder: 8 bytes that name the encoder, which files of another mean nothing to.
        model_id: First 4 bytes of the SHA-256 over all of these.
    """

    def __init__(
        self,
        groups: int,
        channels: int,
        weights: Sequence[int],
        index_model: IndexModel,
        encoder: bytes,
    ) -> None:
        """Put the parts together and compute the model id.

        Raises:
            WeightsError: If they don't fit each other.
        """
        if not 1 <= groups <= MAX_GROUPS or not 1 <= channels <= MAX_CHANNELS:
            raise WeightsError(f"there are no palettes of {groups} groups of {channels} channels")
        if len(weights) != groups or not all(1 <= weight <= 255 for weight in weights):
            raise WeightsError(f"weights of the chain are not {groups} numbers from 1 to 255")
        if len(encoder) != ENCODER_BYTES:
            raise WeightsError(f"the encoder is not named by {ENCODER_BYTES} bytes")
        self.groups = groups
        self.channels = channels
        self.weights = tuple(weights)
        self.index_model = index_model
        self.encoder = encoder
        digest = hashlib.sha256(bytes([groups, channels, *weights]))
        digest.update(index_model.digest())
        digest.update(encoder)
        self.model_id = digest.digest()[:4]

    @classmethod
    def load(cls, path: Path) -> PaletteWalk:
        """Read the integer half of a weight file.

        Raises:
            WeightsError: If the file isn't a weight set of this family.
        """
        arrays = read_exact(path)
        chain, encoder = (arrays.get(f"{EXACT_PREFIX}{name}") for name in ("chain", "encoder"))
        if chain is None or encoder is None:
            raise WeightsError(f"{path.name} doesn't say how its palettes are coded")
        for array in (chain, encoder):
            if array.dtype != np.uint8 or array.ndim != 1:
                raise WeightsError(f"{path.name} has palettes that are not described in bytes")
        if len(chain) < 3:
            raise WeightsError(f"{path.name} has no groups of palettes")
        groups, channels, *weights = chain.tolist()
        return cls(groups, channels, weights, IndexModel.from_arrays(arrays), encoder.tobytes())

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what load reads, by name."""
        return {
            f"{EXACT_PREFIX}chain": np.array([self.groups, self.channels, *self.weights], np.uint8),
            f"{EXACT_PREFIX}encoder": np.frombuffer(self.encoder, np.uint8),
            **self.index_model.arrays(),
        }

    @property
    def rate_points(self) -> int:
        """Rate points a file can name."""
        return POINTS

    # Coding

    def code(
        self, coder: Coder, latents: Latents | None, width: int, height: int, point: int
    ) -> Latents:
        """Code the index maps of palettes that are known; see codec.Walk.

        Args:
            coder: Writer, Reader or Meter.
            latents: {"palette_0": int32 [K, C], ..., "index": int32 [G, rows, columns]}; when
                reading, without "index".
            width: Of the image, in pixels.
            height: Of the image, in pixels.
            point: Rate point.

        Returns:
            The same names.

        Raises:
            BitstreamError: If palettes have more entries than the rate point or a map has.
            DesyncError: If an entry is nowhere in the index maps, or one there in no palette.
        """
        if latents is None:
            raise ValueError("index maps can't be read before their palettes")
        palettes = self._palettes(latents)
        if self._made(palettes, point) >= MOST_STEPS:
            total = sum(map(len, palettes))
            raise BitstreamError(f"palettes have {total} entries, too many for rate point {point}")
        size = shape_of(width, height)
        if max(map(len, palettes)) > size[0] * size[1]:
            raise BitstreamError("a palette has more entries than the image has positions")
        index = indices.code(coder, latents.get("index"), palettes, *size, self.index_model)
        for g, (palette, group) in enumerate(zip(palettes, index, strict=True)):
            if not np.bincount(group.ravel(), minlength=len(palette)).all():
                raise DesyncError(f"palette {g} has an entry that is nowhere in its index map")
        return {**_named(palettes), "index": index}

    def pack(self, latents: Latents) -> Mapping[ChunkType, bytes]:
        """Return the chunk of the palettes."""
        return {ChunkType.CLUT: clut.pack(self._palettes(latents))}

    def unpack(self, chunks: Mapping[ChunkType, bytes]) -> Latents:
        """Return {"palette_0": int32 [K, C], ...}.

        Raises:
            BitstreamError: If the chunk isn't one that pack makes.
            DesyncError: If it decodes to something else than was written.
        """
        return _named(clut.unpack(chunks[ChunkType.CLUT], self.groups, self.channels))

    def _palettes(self, latents: Latents) -> list[IntArray]:
        return [latents[f"palette_{g}"] for g in range(self.groups)]

    # The ladder

    def start(self, z: IntArray) -> Ladder:
        """Find the palettes of a latent, from which its files at all rate points follow.

        Args:
            z: int32 [GC, rows, columns], 0..255.

        Raises:
            InputError: If the latent is too large for a chain in 64-bit integers.
        """
        rows, columns = z.shape[1:]
        check_size(rows * columns, self.channels)
        grouped = z.reshape(self.groups, self.channels, rows * columns)
        found = [quantise(np.ascontiguousarray(points.T)) for points in grouped]
        index = np.stack([assigned.reshape(rows, columns) for _, assigned in found])
        return Ladder([palette for palette, _ in found], index, self.weights)

    def latents_at(self, ladder: Ladder, point: int) -> Latents:
        """Return an image's latents at a rate point."""
        palettes, index = ladder.at(heights(self.groups)[point])
        colours = [palette.colours.astype(np.int32) for palette in palettes]
        return {**_named(colours), "index": index}

    def shrinker(self, latents: Latents, point: int) -> PaletteShrinker:
        """Return what becomes of a file's latents; see codec.ScalableWalk."""
        palettes, index = self._palettes(latents), latents["index"]
        start = [counted(colours, group) for colours, group in zip(palettes, index, strict=True)]
        ladder = Ladder(start, index, self.weights, self._made(palettes, point))
        return PaletteShrinker(self, ladder)

    def _made(self, palettes: Sequence[IntArray], point: int) -> int:
        """Return how many steps of merges that aren't complete were made at a rate point.

        A latent of few colours may have fewer entries than its rate point: then none were.
        """
        above = sum(steps_below(len(palette)) for palette in palettes) - heights(self.groups)[point]
        return max(above, 0)


class PaletteShrinker:
    """A file's latents at lower rate points; see codec.Shrinker."""

    def __init__(self, walk: PaletteWalk, ladder: Ladder) -> None:
        self._walk = walk
        self._ladder = ladder

    def latents(self, point: int) -> Latents:
        """See codec.Shrinker."""
        return self._walk.latents_at(self._ladder, point)

    def estimate(self, point: int) -> float:
        """See codec.Shrinker; in bytes.

        What costs bits is where neighbours differ, and what an entry's colour is.
        """
        palettes, index = self._ladder.at(heights(self._walk.groups)[point])
        entries = sum(map(len, palettes))
        places = sum(np.count_nonzero(np.diff(index, axis=axis)) for axis in (1, 2))
        spread = math.log2(max(entries / FEW_ENTRIES, 1))
        return (
            places * (PLACE_BITS + SPREAD_BITS * spread) / 8 + ENTRY_BYTES * entries + FRAME_BYTES
        )


def _named(palettes: Sequence[IntArray]) -> dict[str, IntArray]:
    return {f"palette_{g}": palette for g, palette in enumerate(palettes)}
