"""The entropy-coded half of CDC: z, then y under a hyperprior, in integers only.

formats/families.md describes this walk for other implementations. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdcodec.codec import IntArray, Latents
from cdcodec.entropy.coder import Coder
from cdcodec.entropy.exact import ExactNet
from cdcodec.entropy.tables import MAX_MAGNITUDE, Tables
from cdcodec.errors import WeightsError
from cdcodec.weight_file import EXACT_PREFIX, read_exact

MEAN_ONE = 64
"""Means and y are held in fixed point, in units of 1/64."""

MAX_POINTS = 256
Y_STRIDE = 16
Z_STRIDE = 64


def y_shape(width: int, height: int) -> tuple[int, int]:
    """Return rows and columns of y for an image of width x height pixels."""
    return -(-height // Y_STRIDE), -(-width // Y_STRIDE)


def z_shape(width: int, height: int) -> tuple[int, int]:
    """Return rows and columns of z for an image of width x height pixels."""
    return -(-height // Z_STRIDE), -(-width // Z_STRIDE)


@dataclass(frozen=True)
class CdcWalk:
    """Tables and the integer network h_s of one weight set.

    Attributes:
        tables: Zero-mean Gaussians, index 0..63; of a converted checkpoint also those of z.
        z_index: Table index of every channel of z at every rate point, uint8 or uint16 [points, N].
        h_s: z [N, h, w] to [2M, 4h, 4w]: means in 1/64, then table indices, or with
            scale_thresholds the scales that they are found from.
        scale_thresholds: int32 [K], rising: the index is the number of those that a scale reaches.
        model_id: First 4 bytes of the SHA-256 over all of these.
    """

    tables: Tables
    z_index: NDArray[np.uint8] | NDArray[np.uint16]
    h_s: ExactNet
    scale_thresholds: NDArray[np.int32] | None
    model_id: bytes

    @classmethod
    def build(
        cls,
        tables: Tables,
        z_index: NDArray[np.uint8] | NDArray[np.uint16],
        h_s: ExactNet,
        scale_thresholds: NDArray[np.int32] | None = None,
    ) -> CdcWalk:
        """Put the parts together and compute the model id.

        Raises:
            WeightsError: If z_index or thresholds don't fit tables and network.
        """
        if z_index.dtype not in (np.uint8, np.uint16) or z_index.ndim != 2:
            raise WeightsError("z_index is not a table [points, channels] of 8 or 16 bits")
        if not 1 <= len(z_index) <= MAX_POINTS:
            raise WeightsError(f"z_index has {len(z_index)} rate points, not 1 to {MAX_POINTS}")
        if z_index.shape[1] != h_s.layers[0].channels_in or z_index.max() >= len(tables):
            raise WeightsError("z_index doesn't fit the tables and the integer network")
        digest = hashlib.sha256(tables.digest())
        digest.update(np.array(z_index.shape, dtype="<u4").tobytes())
        digest.update(z_index.astype(z_index.dtype.newbyteorder("<")).tobytes())
        digest.update(h_s.digest())
        if scale_thresholds is not None:
            if scale_thresholds.dtype != np.int32 or scale_thresholds.ndim != 1:
                raise WeightsError("scale_thresholds is not a vector of int32")
            if len(scale_thresholds) >= len(tables) or (np.diff(scale_thresholds) <= 0).any():
                raise WeightsError("scale_thresholds don't rise, or are as many as the tables")
            digest.update(scale_thresholds.astype("<i4").tobytes())
        return cls(tables, z_index, h_s, scale_thresholds, digest.digest()[:4])

    @classmethod
    def load(cls, path: Path) -> CdcWalk:
        """Read the integer half of a weight file.

        Raises:
            WeightsError: If the file isn't a CDC weight set.
        """
        arrays = read_exact(path)
        if f"{EXACT_PREFIX}z_index" not in arrays:
            raise WeightsError(f"{path.name} has no entropy tables: it was never exported")
        return cls.build(
            Tables.from_arrays(arrays, f"{EXACT_PREFIX}gaussian"),
            arrays[f"{EXACT_PREFIX}z_index"],
            ExactNet.from_arrays(arrays, f"{EXACT_PREFIX}h_s"),
            arrays.get(f"{EXACT_PREFIX}scale_thresholds"),
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what load reads, by name."""
        named: dict[str, NDArray[Any]] = {
            **self.tables.arrays(f"{EXACT_PREFIX}gaussian"),
            f"{EXACT_PREFIX}z_index": self.z_index,
            **self.h_s.arrays(f"{EXACT_PREFIX}h_s"),
        }
        if self.scale_thresholds is not None:
            named[f"{EXACT_PREFIX}scale_thresholds"] = self.scale_thresholds
        return named

    @property
    def rate_points(self) -> int:
        """Rate points a file can name."""
        return len(self.z_index)

    def code(
        self, coder: Coder, latents: Latents | None, width: int, height: int, point: int
    ) -> Latents:
        """Code z, derive mean and table index of every element of y from it, code y.

        Args:
            coder: Writer, Reader or Meter.
            latents: {"z": integers [N, h, w], "y": gained y in units of 1/64 [M, H, W]}; the walk
                rounds y to whole steps from its mean. None when reading.
            width: Of the image, in pixels.
            height: Of the image, in pixels.
            point: Rate point.

        Returns:
            The same names; "y" is now y_hat, in units of 1/64.
        """
        z_rows, z_columns = z_shape(width, height)
        table_index = np.broadcast_to(
            self.z_index[point][:, None, None], (self.z_index.shape[1], z_rows, z_columns)
        )
        z = coder.symbols("z", None if latents is None else latents["z"], table_index, self.tables)
        rows, columns = y_shape(width, height)
        parameters = self.h_s(z)[:, :rows, :columns]
        mean, scale = np.split(parameters, 2)
        y_index = self._index_of(scale)
        steps = None
        if latents is not None:
            distance = latents["y"] - mean
            steps = np.clip((distance + MEAN_ONE // 2) >> 6, -MAX_MAGNITUDE, MAX_MAGNITUDE)
        steps = coder.symbols("y", steps, y_index, self.tables)
        y_hat: IntArray = steps * MEAN_ONE + mean
        return {"z": z, "y": y_hat}

    def _index_of(self, scale: IntArray) -> NDArray[Any]:
        """Return the table index for each scale that h_s gave; without thresholds it is one."""
        if self.scale_thresholds is None:
            return scale
        return np.searchsorted(self.scale_thresholds, scale, side="right")
