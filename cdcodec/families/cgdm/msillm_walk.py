"""The entropy-coded half of MS-ILLM: z, then y under a hyperprior, in integers only.

formats/families.md describes this walk for other implementations. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdcodec.bitstream.container import ChunkType
from cdcodec.codec import IntArray, Latents
from cdcodec.entropy.coder import Coder
from cdcodec.entropy.exact import ExactNet
from cdcodec.entropy.tables import MAX_MAGNITUDE, Tables
from cdcodec.errors import BitstreamError, WeightsError
from cdcodec.families.cgdm.config import MSILLM, preset_of
from cdcodec.weight_file import EXACT_PREFIX, read_exact, read_metadata

MEAN_ONE = 64
"""Means and y are held in fixed point, in units of 1/64."""

Y_STRIDE = 16
Z_STRIDE = 64
HYPER_SCALE = 4  # samples of y along either side of one of z


def y_shape(width: int, height: int) -> tuple[int, int]:
    """Return rows and columns of y for an image of width x height pixels."""
    return -(-height // Y_STRIDE), -(-width // Y_STRIDE)


def z_shape(width: int, height: int) -> tuple[int, int]:
    """Return rows and columns of z for an image of width x height pixels."""
    return -(-height // Z_STRIDE), -(-width // Z_STRIDE)


@dataclass(frozen=True)
class MsIllmWalk:
    """Tables and the two integer networks of one weight set.

    Attributes:
        tables: K + 1 zero-mean Gaussians, then one for each of the N channels of z.
        mean: z [N, h, w] to means of y in 1/64 [M, 4h, 4w].
        scale: z to the scales that table indices are found from, of the same shape.
        scale_thresholds: int32 [K], rising: the index is the number of those that a scale reaches.
        model_id: First 4 bytes of the SHA-256 over all of these.
    """

    tables: Tables
    mean: ExactNet
    scale: ExactNet
    scale_thresholds: NDArray[np.int32]
    model_id: bytes

    @classmethod
    def build(
        cls,
        tables: Tables,
        mean: ExactNet,
        scale: ExactNet,
        scale_thresholds: NDArray[np.int32],
    ) -> MsIllmWalk:
        """Put the parts together and compute the model id.

        Raises:
            WeightsError: If they don't fit each other.
        """
        if scale_thresholds.dtype != np.int32 or scale_thresholds.ndim != 1:
            raise WeightsError("scale_thresholds is not a vector of int32")
        if (np.diff(scale_thresholds) <= 0).any():
            raise WeightsError("scale_thresholds don't rise")
        sizes = {(net.channels_in, net.channels_out, net.upsample) for net in (mean, scale)}
        if len(sizes) != 1 or mean.upsample != HYPER_SCALE:
            raise WeightsError("the integer networks of mean and scale don't fit each other")
        if len(tables) != len(scale_thresholds) + 1 + mean.channels_in:
            raise WeightsError("the tables don't fit the thresholds and the integer networks")
        digest = hashlib.sha256(tables.digest())
        digest.update(mean.digest())
        digest.update(scale.digest())
        digest.update(scale_thresholds.astype("<i4").tobytes())
        return cls(tables, mean, scale, scale_thresholds, digest.digest()[:4])

    @classmethod
    def load(cls, path: Path) -> MsIllmWalk:
        """Read the integer half of a weight file.

        Raises:
            WeightsError: If the file isn't an MS-ILLM weight set.
        """
        if not is_msillm(path):
            raise WeightsError(f"weights {path.name} are not those of an MS-ILLM")
        arrays = read_exact(path)
        thresholds = arrays.get(f"{EXACT_PREFIX}scale_thresholds")
        if thresholds is None:
            raise WeightsError(f"{path.name} has no entropy tables: it was never exported")
        return cls.build(
            Tables.from_arrays(arrays, f"{EXACT_PREFIX}tables"),
            ExactNet.from_arrays(arrays, f"{EXACT_PREFIX}mean"),
            ExactNet.from_arrays(arrays, f"{EXACT_PREFIX}scale"),
            thresholds,
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what load reads, by name."""
        return {
            **self.tables.arrays(f"{EXACT_PREFIX}tables"),
            **self.mean.arrays(f"{EXACT_PREFIX}mean"),
            **self.scale.arrays(f"{EXACT_PREFIX}scale"),
            f"{EXACT_PREFIX}scale_thresholds": self.scale_thresholds,
        }

    @property
    def rate_points(self) -> int:
        """Rate points a file can name: each checkpoint has one rate."""
        return 1

    def code(
        self, coder: Coder, latents: Latents | None, width: int, height: int, point: int
    ) -> Latents:
        """Code z, derive mean and table index of every element of y from it, code y.

        Args:
            coder: Writer, Reader or Meter.
            latents: {"z": integers [N, h, w], "y": y in units of 1/64 [M, H, W]}; the walk rounds y
                to whole steps from its mean. None when reading.
            width: Of the image, in pixels.
            height: Of the image, in pixels.
            point: Rate point; there is one.

        Returns:
            The same names; "y" is now y_hat, in units of 1/64.
        """
        channels = self.mean.channels_in
        first = len(self.tables) - channels
        table_index = np.broadcast_to(
            np.arange(first, first + channels)[:, None, None], (channels, *z_shape(width, height))
        )
        z = coder.symbols("z", None if latents is None else latents["z"], table_index, self.tables)
        rows, columns = y_shape(width, height)
        mean = self.mean(z)[:, :rows, :columns]
        scale = self.scale(z)[:, :rows, :columns]
        y_index = np.searchsorted(self.scale_thresholds, scale, side="right")
        steps = None
        if latents is not None:
            distance = latents["y"] - mean
            steps = np.clip((distance + MEAN_ONE // 2) >> 6, -MAX_MAGNITUDE, MAX_MAGNITUDE)
        steps = coder.symbols("y", steps, y_index, self.tables)
        y_hat: IntArray = steps * MEAN_ONE + mean
        return {"z": z, "y": y_hat}

    def pack(self, latents: Latents) -> Mapping[ChunkType, bytes]:
        """Return the side information of a file, the neutral syntax vector of the family."""
        return {ChunkType.SYNTAX: b""}

    def unpack(self, chunks: Mapping[ChunkType, bytes]) -> Latents:
        """Return the latents that side information holds: there are none.

        Raises:
            BitstreamError: If the syntax vector isn't the neutral one.
        """
        if chunks.get(ChunkType.SYNTAX):
            raise BitstreamError("the syntax chunk of an MS-ILLM file is not empty")
        return {}


def is_msillm(path: Path) -> bool:
    """Tell a weight file of an MS-ILLM from one of the family's post-processor.

    Raises:
        WeightsError: If it can't be read, or is neither.
    """
    return preset_of(read_metadata(path)) == MSILLM
