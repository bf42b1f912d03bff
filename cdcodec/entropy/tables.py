"""Integer probability tables: made once at export, stored with the weights, never recomputed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cdcodec.entropy import ans
from cdcodec.errors import WeightsError

MAX_MAGNITUDE = 2**15
"""Largest absolute value that the coder takes, inside a table or by escape."""

MAX_TABLES = 2**16
"""Most tables of one set; indices are sorted as 16-bit integers."""

TOTAL = 2**ans.PRECISION
"""Sum of the frequencies of every table."""

# PhiInv(1 - 2**-21) = 4.9: beyond it a symbol would be rarer than one unit of frequency.
_HALF_WIDTH = 4.9


@dataclass(frozen=True, eq=False)
class Tables:
    """A set of integer frequency tables, checked when it is made and immutable from then on.

    Table i holds the values ``lows[i] .. lows[i] + n_i - 2`` in its first n_i - 1 entries; the last
    entry is the escape symbol, which stands for every other value.

    Attributes:
        frequencies: int32 [total], the tables one after another; entries >= 1, sums 2**24.
        starts: int32 [n + 1], where each table starts in frequencies, and the total at the end.
        lows: int32 [n], the smallest value of each table.

    Raises:
        WeightsError: The arrays break one of the rules above.
    """

    frequencies: NDArray[np.int32]
    starts: NDArray[np.int32]
    lows: NDArray[np.int32]

    def __post_init__(self) -> None:
        for field in ("frequencies", "starts", "lows"):
            array = np.array(getattr(self, field), order="C")
            array.setflags(write=False)
            object.__setattr__(self, field, array)
        self.validate()

    def __len__(self) -> int:
        return len(self.lows)

    def __reduce__(self) -> tuple[Any, ...]:
        # The cached models are native objects that can be neither pickled nor copied.
        return Tables, (self.frequencies, self.starts, self.lows)

    def validate(self) -> None:
        """Check every invariant; the constructor has done so already.

        Raises:
            WeightsError: The first invariant that doesn't hold, in words.
        """
        for field in ("frequencies", "starts", "lows"):
            array = getattr(self, field)
            if array.dtype != np.int32 or array.ndim != 1:
                raise WeightsError(f"probability tables: {field} is not a vector of int32")
        count = len(self.lows)
        if not 1 <= count <= MAX_TABLES:
            raise WeightsError(f"probability tables: {count} tables, not 1 to {MAX_TABLES:,}")
        if len(self.starts) != count + 1 or self.starts[0] != 0:
            raise WeightsError("probability tables: starts doesn't fit the number of tables")
        sizes = np.diff(self.starts.astype(np.int64))
        if sizes.min() < 2 or self.starts[-1] != len(self.frequencies):
            raise WeightsError("probability tables: a table has no entry, or none but the escape")
        if self.frequencies.min() < 1:
            raise WeightsError("probability tables: a frequency is below 1")
        sums = np.add.reduceat(self.frequencies.astype(np.int64), self.starts[:-1])
        if (sums != TOTAL).any():
            raise WeightsError(f"probability tables: frequencies don't sum to {TOTAL:,}")
        highs = self.lows + sizes - 2
        if self.lows.min() < -MAX_MAGNITUDE or highs.max() > MAX_MAGNITUDE:
            raise WeightsError(f"probability tables: a value lies outside ±{MAX_MAGNITUDE:,}")

    @cached_property
    def escapes(self) -> NDArray[np.int32]:
        """The escape symbol of each table, int32 [n]: its size less one."""
        return np.subtract(self.starts[1:] - 1, self.starts[:-1], dtype=np.int32)

    @cached_property
    def costs(self) -> NDArray[np.float64]:
        """Information content in bits of every entry, float64 [total]."""
        return ans.PRECISION - np.log2(self.frequencies.astype(np.float64))

    @cached_property
    def models(self) -> tuple[ans.Model, ...]:
        """The coder's model of each table."""
        return tuple(map(ans.categorical, np.split(self.frequencies, self.starts[1:-1])))

    def digest(self) -> bytes:
        """Return the SHA-256 that goes into the model id (layout in ``formats/entropy.md``)."""
        count = len(self).to_bytes(4, "little")
        arrays = (self.starts, self.lows, self.frequencies)
        return hashlib.sha256(count + b"".join(a.astype("<i4").tobytes() for a in arrays)).digest()

    def arrays(self, prefix: str) -> dict[str, NDArray[np.int32]]:
        """Return the arrays by the names they have in a weight file, ``prefix.frequencies`` etc."""
        return {
            f"{prefix}.frequencies": self.frequencies,
            f"{prefix}.starts": self.starts,
            f"{prefix}.lows": self.lows,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], prefix: str) -> Tables:
        """Find the arrays of ``arrays(prefix)`` again.

        Raises:
            WeightsError: An array is missing, or the tables are not sound.
        """
        try:
            fields = [arrays[f"{prefix}.{field}"] for field in ("frequencies", "starts", "lows")]
        except KeyError as error:
            raise WeightsError(f"weight file lacks the array {error.args[0]!r}") from None
        return cls(*fields)


def gaussian_tables(count: int = 64, sigma_min: float = 0.11, sigma_max: float = 256.0) -> Tables:
    """Make zero-mean Gaussian tables with geometrically spaced standard deviations.

    Floating point, so for export only: a weight file stores what this returned.

    Args:
        count: Number of tables, at least 2.
        sigma_min: Standard deviation of the first table.
        sigma_max: Standard deviation of the last table.
    """
    sigmas = [gaussian_sigma(i, count, sigma_min, sigma_max) for i in range(count)]
    return tables_from_pmf([_gaussian_pmf(sigma) for sigma in sigmas])


def gaussian_sigma(
    position: float, count: int = 64, sigma_min: float = 0.11, sigma_max: float = 256.0
) -> float:
    """Return the standard deviation of a table of `gaussian_tables`, or between two of them."""
    return sigma_min * math.pow(sigma_max / sigma_min, position / (count - 1))


def concatenate(*sets: Tables) -> Tables:
    """Make one set of several; tables are numbered on through them."""
    sizes = [np.diff(each.starts) for each in sets]
    return Tables(
        frequencies=np.concatenate([each.frequencies for each in sets]),
        starts=np.cumsum(np.concatenate([[0], *sizes])).astype(np.int32),
        lows=np.concatenate([each.lows for each in sets]),
    )


def tables_from_pmf(pmfs: Sequence[tuple[int, ArrayLike]]) -> Tables:
    """Make one table for each (low, pmf); for export only, as floats go in.

    Args:
        pmfs: The smallest value and the probabilities of it and its successors. What they lack to 1
            goes to the escape symbol; a pmf that sums to more is scaled down.

    Raises:
        ValueError: A probability is negative or not finite, or a pmf is empty.
    """
    tables = [_integer_frequencies(np.asarray(pmf, dtype=np.float64)) for _, pmf in pmfs]
    return Tables(
        frequencies=np.concatenate(tables),
        starts=np.cumsum([0, *map(len, tables)]).astype(np.int32),
        lows=np.array([low for low, _ in pmfs], dtype=np.int32),
    )


def _gaussian_pmf(sigma: float) -> tuple[int, list[float]]:
    half_width = math.ceil(sigma * _HALF_WIDTH)
    # erfc of the distance from zero keeps the relative precision of the tails.
    beyond = [math.erfc((k + 0.5) / (sigma * math.sqrt(2))) / 2 for k in range(half_width + 1)]
    side = [near - far for near, far in zip(beyond[:-1], beyond[1:], strict=True)]
    return -half_width, [*reversed(side), 1 - 2 * beyond[0], *side]


def _integer_frequencies(pmf: NDArray[np.float64]) -> NDArray[np.int32]:
    """Round pmf [n], escape added, to [n + 1] integers >= 1 with the exact sum 2**24."""
    if pmf.ndim != 1 or not len(pmf) or not np.isfinite(pmf).all() or pmf.min() < 0:
        raise ValueError("a pmf is a non-empty vector of finite numbers that are not negative")
    whole = np.append(pmf, max(0.0, 1.0 - pmf.sum()))
    # One unit for every symbol, the rest by largest remainder.
    share = whole / whole.sum() * (TOTAL - len(whole))
    frequencies: NDArray[np.int32] = np.floor(share).astype(np.int32) + np.int32(1)
    missing = TOTAL - int(frequencies.sum())
    frequencies[np.argsort(np.floor(share) - share, kind="stable")[:missing]] += 1
    return frequencies
