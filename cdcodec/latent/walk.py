"""The entropy-coded half of the latent diffusion families: a hyper-latent, then y under a context.

formats/families.md describes this walk for other implementations. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cdcodec.codec import IntArray, Latents
from cdcodec.entropy.coder import MAX_CARDINALITY, Coder
from cdcodec.entropy.context import ExactContext
from cdcodec.entropy.exact_graph import Network, load_network
from cdcodec.entropy.tables import Tables
from cdcodec.errors import WeightsError
from cdcodec.weight_file import EXACT_PREFIX, read_exact

MAX_POINTS = 256
Y_STRIDE = 16
HYPER_STRIDE = 64


def y_shape(width: int, height: int) -> tuple[int, int]:
    """Return rows and columns of y for an image of width x height pixels."""
    return -(-height // Y_STRIDE), -(-width // Y_STRIDE)


def hyper_shape(width: int, height: int) -> tuple[int, int]:
    """Return rows and columns of the hyper-latent for an image of width x height pixels."""
    return -(-height // HYPER_STRIDE), -(-width // HYPER_STRIDE)


class HyperLatent(Protocol):
    """What is coded before y, and the planes that h_s sees of it."""

    @property
    def name(self) -> str:
        """Its name among the latents and in the digest of a walk."""

    @property
    def planes(self) -> int:
        """How many planes it becomes."""

    @property
    def points(self) -> int:
        """Rate points a file can name."""

    def code(
        self,
        coder: Coder,
        values: IntArray | None,
        tables: Tables,
        shape: tuple[int, int],
        point: int,
    ) -> tuple[IntArray, IntArray]:
        """Code values at rows x columns positions; return them and the planes."""

    def check(self, tables: Tables) -> None:
        """Raise WeightsError if it doesn't fit the tables."""

    def digest(self) -> bytes:
        """Return the SHA-256 that goes into the model id."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what a weight file holds of it, by name."""


@dataclass(frozen=True, eq=False)
class Codebook:
    """Indices of vectors, all equally likely (paper 002, sec. 3.1).

    Attributes:
        vectors: int16 [K, N], in the fixed point that h_s was made for; K is 1..65,536.
        points: Rate points, 1..256.
    """

    vectors: NDArray[np.int16]
    points: int

    @property
    def name(self) -> str:
        """See HyperLatent."""
        return "l"

    @property
    def planes(self) -> int:
        """See HyperLatent."""
        return int(self.vectors.shape[1])

    def code(
        self,
        coder: Coder,
        values: IntArray | None,
        tables: Tables,
        shape: tuple[int, int],
        point: int,
    ) -> tuple[IntArray, IntArray]:
        """Code indices [h, w]; planes are int32 [N, h, w]."""
        indices = coder.uniform(self.name, values, len(self.vectors), shape)
        return indices, self.vectors[indices].transpose(2, 0, 1).astype(np.int32)

    def check(self, tables: Tables) -> None:
        """See HyperLatent."""
        if self.vectors.dtype != np.int16 or self.vectors.ndim != 2:
            raise WeightsError("codebook is not a table [codes, channels] of int16")
        if not 1 <= len(self.vectors) <= MAX_CARDINALITY:
            raise WeightsError(f"codebook has {len(self.vectors)} entries")
        if not 1 <= self.points <= MAX_POINTS:
            raise WeightsError(f"weight set has {self.points} rate points, not 1 to {MAX_POINTS}")

    def digest(self) -> bytes:
        """Return the SHA-256 of u32 points, K and N, then the vectors."""
        sizes = np.array([self.points, *self.vectors.shape], "<u4").tobytes()
        return hashlib.sha256(sizes + self.vectors.astype("<i2").tobytes()).digest()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See HyperLatent."""
        return {
            f"{EXACT_PREFIX}codebook": self.vectors,
            f"{EXACT_PREFIX}points": np.array([self.points], np.int32),
        }


@dataclass(frozen=True, eq=False)
class Tabled:
    """Integers with a table for each channel (paper 003, sec. III-B).

    Attributes:
        index: Table of every channel at every rate point, uint8 or uint16 [points, N].
    """

    index: NDArray[np.uint8] | NDArray[np.uint16]

    @property
    def name(self) -> str:
        """See HyperLatent."""
        return "z"

    @property
    def planes(self) -> int:
        """See HyperLatent."""
        return int(self.index.shape[1])

    @property
    def points(self) -> int:
        """See HyperLatent."""
        return len(self.index)

    def code(
        self,
        coder: Coder,
        values: IntArray | None,
        tables: Tables,
        shape: tuple[int, int],
        point: int,
    ) -> tuple[IntArray, IntArray]:
        """Code integers [N, h, w]; they are the planes."""
        index = np.broadcast_to(self.index[point][:, None, None], (self.planes, *shape))
        z = coder.symbols(self.name, values, index, tables)
        return z, z

    def check(self, tables: Tables) -> None:
        """See HyperLatent."""
        if self.index.dtype not in (np.uint8, np.uint16) or self.index.ndim != 2:
            raise WeightsError("z_index is not a table [points, channels] of 8 or 16 bits")
        if not 1 <= len(self.index) <= MAX_POINTS:
            raise WeightsError(f"z_index has {len(self.index)} rate points, not 1 to {MAX_POINTS}")
        if not self.index.size or self.index.max() >= len(tables):
            raise WeightsError("z_index doesn't fit the tables")

    def digest(self) -> bytes:
        """Return the SHA-256 of u32 points and N, then the indices in their own width."""
        sizes = np.array(self.index.shape, "<u4").tobytes()
        little = self.index.astype(self.index.dtype.newbyteorder("<"))
        return hashlib.sha256(sizes + little.tobytes()).digest()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See HyperLatent."""
        return {f"{EXACT_PREFIX}z_index": self.index}


@dataclass(frozen=True)
class LatentWalk:
    """Tables and integer networks of one weight set.

    Attributes:
        tables: Zero-mean Gaussians first; of a converted checkpoint also those of z.
        hyper: What is coded first.
        h_s: Planes [N, h, w] to [H, 4h, 4w]; if it takes N + 1, the last holds the rate point.
        context: Codes y, given the H planes.
        scale_thresholds: int32 [K], rising, if the context tells scales: the index is the number of
            those that a scale reaches.
        model_id: First 4 bytes of the SHA-256 over all of these.
    """

    tables: Tables
    hyper: HyperLatent
    h_s: Network
    context: ExactContext
    scale_thresholds: NDArray[np.int32] | None
    model_id: bytes

    @classmethod
    def build(
        cls,
        tables: Tables,
        hyper: HyperLatent,
        h_s: Network,
        context: ExactContext,
        scale_thresholds: NDArray[np.int32] | None = None,
    ) -> LatentWalk:
        """Put the parts together and compute the model id.

        Raises:
            WeightsError: If the parts don't fit each other.
        """
        hyper.check(tables)
        if h_s.channels_in - hyper.planes not in (0, 1) or h_s.upsample != 4:
            raise WeightsError("h_s doesn't fit the hyper-latent")
        if h_s.channels_out != context.hyper:
            raise WeightsError("h_s doesn't fit the context model")
        digest = hashlib.sha256()
        for part in (tables, hyper, h_s, context):
            digest.update(part.digest())
        if scale_thresholds is not None:
            if scale_thresholds.dtype != np.int32 or scale_thresholds.ndim != 1:
                raise WeightsError("scale_thresholds is not a vector of int32")
            if len(scale_thresholds) >= len(tables) or (np.diff(scale_thresholds) <= 0).any():
                raise WeightsError("scale_thresholds don't rise, or are as many as the tables")
            digest.update(scale_thresholds.astype("<i4").tobytes())
        else:
            lowest, highest = context.index_bounds
            if lowest < 0 or highest >= len(tables):
                raise WeightsError("the context model's indices don't fit the tables")
        return cls(tables, hyper, h_s, context, scale_thresholds, digest.digest()[:4])

    @classmethod
    def load(cls, path: Path) -> LatentWalk:
        """Read the integer half of a weight file.

        Raises:
            WeightsError: If the file isn't a weight set of these families.
        """
        arrays = read_exact(path)
        if f"{EXACT_PREFIX}gaussian.starts" not in arrays:
            raise WeightsError(f"{path.name} has no entropy tables: it was never exported")
        return cls.from_arrays(arrays)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> LatentWalk:
        """Find what arrays returns again.

        Raises:
            WeightsError: An array is missing or of the wrong kind, or the parts don't fit.
        """
        return cls.build(
            Tables.from_arrays(arrays, f"{EXACT_PREFIX}gaussian"),
            _hyper_of(arrays),
            load_network(arrays, f"{EXACT_PREFIX}h_s"),
            ExactContext.from_arrays(arrays, f"{EXACT_PREFIX}context"),
            arrays.get(f"{EXACT_PREFIX}scale_thresholds"),
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what load reads, by name."""
        named: dict[str, NDArray[Any]] = {
            **self.tables.arrays(f"{EXACT_PREFIX}gaussian"),
            **self.hyper.arrays(),
            **self.h_s.arrays(f"{EXACT_PREFIX}h_s"),
            **self.context.arrays(f"{EXACT_PREFIX}context"),
        }
        if self.scale_thresholds is not None:
            named[f"{EXACT_PREFIX}scale_thresholds"] = self.scale_thresholds
        return named

    @property
    def rate_points(self) -> int:
        """Rate points a file can name."""
        return self.hyper.points

    def code(
        self, coder: Coder, latents: Latents | None, width: int, height: int, point: int
    ) -> Latents:
        """Code the hyper-latent, then y under it and under what of y has been coded before.

        Args:
            coder: Writer, Reader or Meter.
            latents: {"l": indices [h, w] or "z": integers [N, h, w], "y": gained y in units of 1/64
                [M, H, W]}; the walk rounds y to whole steps from its mean. None when reading.
            width: Of the image, in pixels.
            height: Of the image, in pixels.
            point: Rate point.

        Returns:
            The same names; "y" is now y_hat, in units of 1/64.
        """
        name = self.hyper.name
        values = None if latents is None else latents[name]
        shape = hyper_shape(width, height)
        values, planes = self.hyper.code(coder, values, self.tables, shape, point)
        if self.h_s.channels_in > len(planes):
            planes = np.concatenate([planes, np.full((1, *shape), point, np.int32)])
        rows, columns = y_shape(width, height)
        seen = self.h_s(planes)[:, :rows, :columns]
        y = None if latents is None else latents["y"]
        y_hat = self.context.code(coder, y, seen, self.tables, self.scale_thresholds)
        return {name: values, "y": y_hat}


def _hyper_of(arrays: Mapping[str, NDArray[Any]]) -> HyperLatent:
    """Find the hyper-latent's arrays; a file has those of one kind."""
    z_index = arrays.get(f"{EXACT_PREFIX}z_index")
    if z_index is not None:
        return Tabled(z_index)
    vectors, points = (arrays.get(f"{EXACT_PREFIX}{name}") for name in ("codebook", "points"))
    if vectors is None or points is None or points.dtype != np.int32 or points.shape != (1,):
        raise WeightsError("weight file lacks the arrays of its hyper-latent")
    return Codebook(vectors, int(points[0]))
