"""Integer networks that give the same integers on every machine, for any order of summation.

Whatever chooses a probability table must agree to the last bit between encoder and decoder. These
networks compute convolutions as float64 matrix products, which are fast everywhere, and prove that
every partial sum is an integer of at most 2**53. Up to there float64 is exact, so neither blocking
nor fused multiply-add nor the number of threads can change a result.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdcodec.errors import WeightsError

EXACT_LIMIT = 2**53
"""Up to here float64 holds every integer."""

STRIP_BYTES = 8 * 2**20
"""Bound of the matrix that a convolution is unfolded into; small enough to stay near the caches."""

_DTYPES = {
    "weight": np.int16,
    "bias": np.int64,
    "multiplier": np.int32,
    "low": np.int32,
    "high": np.int32,
}


@dataclass(frozen=True, eq=False)
class ExactLayer:
    """One integer convolution with requantisation; immutable.

    ``out = clip((acc * multiplier + 2**(shift-1)) >> shift, low, high)``, where acc is the
    zero-padded convolution of stride 1 plus the bias, and the shift rounds down; shift 0 adds
    nothing. A ReLU is low = 0.

    Attributes:
        weight: int16 [O, I, k, k], k odd.
        bias: int64 [O].
        multiplier: int32 [O], >= 0.
        shift: 0..62.
        low: int32 [O], lower bounds of the output.
        high: int32 [O], upper bounds, >= low.
        upsample: Factor of the pixel shuffle after the layer; 1 for none. O is a multiple of its
            square.

    Raises:
        WeightsError: The fields break one of the rules above.
    """

    weight: NDArray[np.int16]
    bias: NDArray[np.int64]
    multiplier: NDArray[np.int32]
    shift: int
    low: NDArray[np.int32]
    high: NDArray[np.int32]
    upsample: int = 1

    def __post_init__(self) -> None:
        for field, dtype in _DTYPES.items():
            array = np.array(getattr(self, field), order="C")
            if array.dtype != dtype:
                raise WeightsError(f"integer layer: {field} is {array.dtype}, not {dtype.__name__}")
            array.setflags(write=False)
            object.__setattr__(self, field, array)
        shape = self.weight.shape
        if len(shape) != 4 or 0 in shape or shape[2] != shape[3] or shape[2] % 2 == 0:
            raise WeightsError(f"integer layer: weight has shape {shape}, not [O, I, k, k], k odd")
        for field in ("bias", "multiplier", "low", "high"):
            if getattr(self, field).shape != shape[:1]:
                raise WeightsError(f"integer layer: {field} is not a vector of {shape[0]} values")
        if self.multiplier.min() < 0 or not 0 <= self.shift <= 62:
            raise WeightsError("integer layer: a multiplier or the shift is out of range")
        if (self.low > self.high).any():
            raise WeightsError("integer layer: a lower bound lies above its upper bound")
        if self.upsample < 1 or shape[0] % self.upsample**2:
            raise WeightsError(
                f"integer layer: can't upsample {shape[0]} channels {self.upsample}x"
            )

    @property
    def channels_in(self) -> int:
        """Channels that the layer takes."""
        return int(self.weight.shape[1])

    @property
    def channels_out(self) -> int:
        """Channels that the layer gives, after the pixel shuffle."""
        return int(self.weight.shape[0]) // self.upsample**2

    @property
    def output_limit(self) -> int:
        """Bound of the absolute output."""
        return max(-int(self.low.min()), int(self.high.max()), 0)

    def accumulator_bounds(self, input_limit: int) -> list[int]:
        """Bound |acc| and its partial sums by input_limit * sum|w| + |b|, for each of O rows."""
        sums = np.abs(self.weight.astype(np.int64)).sum(axis=(1, 2, 3)).tolist()
        # Python integers: this is the proof, so it must not overflow itself.
        return [input_limit * s + abs(b) for s, b in zip(sums, self.bias.tolist(), strict=True)]

    def __call__(self, plane: NDArray[np.int32]) -> NDArray[np.int32]:
        """Map plane [I, H, W] to int32 [O/u², H*u, W*u]; ``ExactNet`` has bounded both."""
        rows, _, kernel, _ = self.weight.shape
        _, height, width = plane.shape
        margin = kernel // 2
        padded = np.pad(plane, ((0, 0), (margin, margin), (margin, margin)))
        out = np.empty((rows, height, width), dtype=np.int32)
        for top, bottom, left, right in self._strips(height, width):
            patch = padded[:, top : bottom + 2 * margin, left : right + 2 * margin]
            out[:, top:bottom, left:right] = self._requantise(
                self._matrix @ _unfold(patch, kernel)
            ).reshape(rows, bottom - top, right - left)
        return _pixel_shuffle(out, self.upsample)

    @cached_property
    def _matrix(self) -> NDArray[np.float64]:
        return self.weight.reshape(len(self.weight), -1).astype(np.float64)

    def _strips(self, height: int, width: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield (top, bottom, left, right): whole rows, or parts of one where a row is too long."""
        positions = max(1, STRIP_BYTES // (8 * max(self._matrix.shape)))
        columns = max(1, min(width, positions))
        rows = max(1, positions // columns)
        for top in range(0, height, rows):
            for left in range(0, width, columns):
                yield top, min(top + rows, height), left, min(left + columns, width)

    def _requantise(self, sums: NDArray[np.float64]) -> NDArray[np.int64]:
        acc = sums.astype(np.int64)
        acc += self.bias[:, None]
        acc *= self.multiplier[:, None]
        acc += (1 << self.shift) >> 1
        acc >>= self.shift
        return np.clip(acc, self.low[:, None], self.high[:, None], out=acc)


@dataclass(frozen=True, eq=False)
class ExactNet:
    """A chain of integer layers, proved exact when it is made.

    Attributes:
        layers: At least one; each takes as many channels as the one before it gives.
        input_limit: The input is clipped to ±input_limit, 1..2**31-1.

    Raises:
        WeightsError: ``check`` refuses the layers.
    """

    layers: tuple[ExactLayer, ...]
    input_limit: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        self.check()

    def check(self) -> None:
        """Prove that no sum leaves the exact range; the constructor has done so already.

        Raises:
            WeightsError: Layers don't fit each other, an accumulator could exceed 2**53, or its
                product with the multiplier could reach 2**63.
        """
        if not self.layers or not 1 <= self.input_limit < 2**31:
            raise WeightsError("integer network: no layers, or an impossible input limit")
        limit, channels = self.input_limit, self.layers[0].channels_in
        for number, layer in enumerate(self.layers):
            if layer.channels_in != channels:
                raise WeightsError(
                    f"integer network: layer {number} takes {layer.channels_in} channels, "
                    f"not {channels}"
                )
            half = (1 << layer.shift) >> 1
            bounds = layer.accumulator_bounds(limit)
            if max(bounds) > EXACT_LIMIT:
                raise WeightsError(f"integer network: layer {number} can exceed 2**53")
            multipliers = layer.multiplier.tolist()
            if max(b * m for b, m in zip(bounds, multipliers, strict=True)) + half >= 2**63:
                raise WeightsError(f"integer network: layer {number} can reach 2**63")
            limit, channels = layer.output_limit, layer.channels_out

    @property
    def channels_in(self) -> int:
        """Channels that the network takes."""
        return self.layers[0].channels_in

    @property
    def channels_out(self) -> int:
        """Channels that the network gives."""
        return self.layers[-1].channels_out

    @property
    def upsample(self) -> int:
        """How many times as wide and high its output is."""
        return math.prod(layer.upsample for layer in self.layers)

    @property
    def output_limit(self) -> int:
        """Bound of the absolute output."""
        return self.layers[-1].output_limit

    @property
    def output_bounds(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The least and the greatest output of each channel."""
        last = self.layers[-1]
        lows, highs = (b.reshape(last.channels_out, -1) for b in (last.low, last.high))
        return lows.min(1), highs.max(1)

    @property
    def is_pointwise(self) -> bool:
        """Whether each output depends on the inputs at its own place alone."""
        return all(layer.weight.shape[-1] == 1 for layer in self.layers)

    def __call__(self, z: NDArray[Any]) -> NDArray[np.int32]:
        """Map integers z [C, H, W] to int32 [O, H*u, W*u], u the product of all upsamplings.

        Raises:
            ValueError: z is not integer, or not of that shape.
        """
        if z.dtype.kind not in "iu" or z.ndim != 3 or len(z) != self.layers[0].channels_in:
            raise ValueError(
                f"{z.dtype} {z.shape} is not {self.layers[0].channels_in} planes of integers"
            )
        limit = self.input_limit
        plane = np.clip(z.astype(np.int64), -limit, limit).astype(np.int32)
        for layer in self.layers:
            plane = layer(plane)
        return plane

    def digest(self) -> bytes:
        """Return the SHA-256 that goes into the model id (layout in ``formats/entropy.md``)."""
        digest = hashlib.sha256(_words(len(self.layers), self.input_limit))
        for layer in self.layers:
            digest.update(_words(*layer.weight.shape[:3], layer.shift, layer.upsample))
            for field, dtype in _DTYPES.items():
                little = np.dtype(dtype).newbyteorder("<")
                digest.update(getattr(layer, field).astype(little).tobytes())
        return digest.digest()

    def arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Return the arrays by the names they have in a weight file, ``prefix.0.weight`` etc."""
        named: dict[str, NDArray[Any]] = {
            f"{prefix}.input_limit": np.array([self.input_limit], dtype=np.int32),
        }
        for number, layer in enumerate(self.layers):
            for field in _DTYPES:
                named[f"{prefix}.{number}.{field}"] = getattr(layer, field)
            for field in ("shift", "upsample"):
                named[f"{prefix}.{number}.{field}"] = np.array(
                    [getattr(layer, field)], dtype=np.int32
                )
        return named

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], prefix: str) -> ExactNet:
        """Find the arrays of ``arrays(prefix)`` again.

        Raises:
            WeightsError: An array is missing or of the wrong kind, or ``check`` refuses the net.
        """
        layers = [
            ExactLayer(
                **{field: _required(arrays, f"{prefix}.{number}.{field}") for field in _DTYPES},
                shift=_scalar(arrays, f"{prefix}.{number}.shift"),
                upsample=_scalar(arrays, f"{prefix}.{number}.upsample"),
            )
            for number in range(_count_layers(arrays, prefix))
        ]
        return cls(tuple(layers), _scalar(arrays, f"{prefix}.input_limit"))


def _unfold(patch: NDArray[np.int32], kernel: int) -> NDArray[np.float64]:
    """Unfold patch [I, h + k - 1, w + k - 1] into columns [I*k*k, h*w]."""
    channels = len(patch)
    height, width = (extent - kernel + 1 for extent in patch.shape[1:])
    columns = np.empty((channels, kernel, kernel, height, width))
    for row in range(kernel):
        for column in range(kernel):
            columns[:, row, column] = patch[:, row : row + height, column : column + width]
    return columns.reshape(channels * kernel**2, height * width)


def _pixel_shuffle(plane: NDArray[np.int32], factor: int) -> NDArray[np.int32]:
    """Rearrange [C*u*u, H, W] into [C, H*u, W*u]; channel (c*u + i)*u + j fills row i, column j."""
    if factor == 1:
        return plane
    rows, height, width = plane.shape
    blocks = plane.reshape(rows // factor**2, factor, factor, height, width)
    return blocks.transpose(0, 3, 1, 4, 2).reshape(
        rows // factor**2, height * factor, width * factor
    )


def _count_layers(arrays: Mapping[str, NDArray[Any]], prefix: str) -> int:
    """Count by any field, so that a layer which lacks one is an error and not the end."""
    number = 0
    while any(f"{prefix}.{number}.{field}" in arrays for field in _DTYPES):
        number += 1
    return number


def _words(*numbers: int) -> bytes:
    return b"".join(int(number).to_bytes(4, "little") for number in numbers)


def _required(arrays: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    if name not in arrays:
        raise WeightsError(f"weight file lacks the array {name!r}")
    return arrays[name]


def _scalar(arrays: Mapping[str, NDArray[Any]], name: str) -> int:
    array = _required(arrays, name)
    if array.shape != (1,) or array.dtype != np.int32:
        raise WeightsError(f"weight file: {name!r} is not a single int32")
    return int(array[0])
