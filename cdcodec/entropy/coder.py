"""One walk over integers, three ways: Writer encodes it, Reader decodes it, Meter only counts.

A family walks its latents once, through whichever of the three it is given. The order of symbols in
the stream, escapes included, is that of ``formats/entropy.md``.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cdcodec.entropy import ans
from cdcodec.entropy.tables import MAX_MAGNITUDE, TOTAL, Tables
from cdcodec.errors import DesyncError

IntArray = NDArray[Any]
"""Any integer type goes in; what a coder returns is int32."""

MAX_CARDINALITY = 2**16
"""Largest alphabet of ``uniform``: beyond it 24 bits of precision no longer divide evenly."""

# Exp-Golomb: the number after an escape is 1..2**17, so the prefix counts 0..17 further bits. Its
# frequencies are those of a unary code, 1/2, 1/4, ...; the last two entries are equal.
_LENGTHS = np.array([2 ** (ans.PRECISION - 1 - k) for k in range(17)] + [2**7], dtype=np.int32)
_LENGTH_MODEL = ans.categorical(_LENGTHS)
_LENGTH_COSTS = ans.PRECISION - np.log2(_LENGTHS.astype(np.float64)) + np.arange(len(_LENGTHS))


MAX_WEIGHT = 2**39 - 1
"""Largest sum of a row of weights: times 2**24 it still fits 63 bits."""


class Coder(Protocol):
    """What a family's walk needs; it can't tell which coder it was given."""

    def symbols(
        self, name: str, values: IntArray | None, table_index: IntArray, tables: Tables
    ) -> NDArray[np.int32]:
        """Code one value for each table index and return what the reader will have.

        Args:
            name: What the values are, for the count of bits and the digest.
            values: Integers within ±MAX_MAGNITUDE, of table_index's shape; a Reader takes None.
            table_index: Integers 0..len(tables)-1, of any shape.
            tables: The set that table_index points into.
        """

    def uniform(
        self, name: str, values: IntArray | None, cardinality: int, shape: tuple[int, ...]
    ) -> NDArray[np.int32]:
        """Code values 0..cardinality-1, all equally likely, and return what the reader will have.

        Args:
            name: What the values are, for the count of bits and the digest.
            values: Integers of the given shape; a Reader takes None.
            cardinality: Number of possible values, 1..MAX_CARDINALITY.
            shape: Shape of the values, which a Reader can't know otherwise.
        """

    def rows(
        self, name: str, values: IntArray | None, weights: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """Code a value for each row of weights and return what the reader will have.

        It doesn't enter the digest, see `record`: a reader may need more calls than a writer.

        Args:
            name: What the values are, for the count of bits.
            values: Integers 0..K-1 [n]; a Reader takes None.
            weights: int64 [n, K], K in 1..MAX_CARDINALITY: what each value is as likely as, at
                least 0. A row sums to 1..MAX_WEIGHT.
        """

    def record(self, name: str, values: NDArray[np.int32]) -> None:
        """Add what `rows` returned to the digest, as a whole: its calls may be few or many."""


class _Counter:
    """What the three have in common: bits by name."""

    def __init__(self) -> None:
        self._bits: defaultdict[str, float] = defaultdict(float)

    @property
    def bits(self) -> dict[str, float]:
        """Information content by name, in bits."""
        return dict(self._bits)

    @property
    def total_bits(self) -> float:
        """Information content of the whole walk, in bits."""
        return math.fsum(self._bits.values())

    def _count_symbols(
        self,
        name: str,
        values: NDArray[np.int32],
        symbols: NDArray[np.int32],
        escaped: NDArray[np.intp],
        index: NDArray[np.intp],
        tables: Tables,
    ) -> None:
        bits = tables.costs[tables.starts[index] + symbols].sum()
        if escaped.size:
            lengths, _ = _exp_golomb(_excess(values[escaped], index[escaped], tables))
            bits += _LENGTH_COSTS[lengths].sum()
        self._bits[name] += float(bits)

    def _count_uniform(self, name: str, values: NDArray[np.int32], cardinality: int) -> None:
        share = TOTAL // cardinality
        last_share = TOTAL - share * (cardinality - 1)
        last = int(np.count_nonzero(values == cardinality - 1))
        bits = values.size * (ans.PRECISION - math.log2(share))
        self._bits[name] += bits - last * math.log2(last_share / share)

    def _count_rows(self, name: str, frequencies: NDArray[np.int64]) -> None:
        bits = ans.PRECISION * len(frequencies) - np.log2(frequencies).sum()
        self._bits[name] += float(bits)


class _Recorder(_Counter):
    """What Writer and Reader have in common: a digest of all that passes."""

    def __init__(self) -> None:
        super().__init__()
        self._hash = hashlib.sha256()

    def digest(self) -> str:
        """Return the SHA-256 over names and symbols in the order of the walk, in hexadecimal."""
        return self._hash.hexdigest()

    def record(self, name: str, values: NDArray[np.int32]) -> None:
        """Add an array to the digest; for those that stand beside the walk, in other streams."""
        self._hash.update(name.encode() + b"\0" + values.astype("<i4", copy=False).tobytes())


class Writer(_Recorder):
    """Encodes a walk."""

    def __init__(self) -> None:
        super().__init__()
        self._pending: list[tuple[NDArray[np.int32], ans.Model | NDArray[np.int32]]] = []

    def symbols(
        self, name: str, values: IntArray | None, table_index: IntArray, tables: Tables
    ) -> NDArray[np.int32]:
        """See ``Coder.symbols``.

        Raises:
            ValueError: A value lies outside ±MAX_MAGNITUDE, or an argument doesn't fit the others.
        """
        checked = _checked_values(values, table_index.shape, -MAX_MAGNITUDE, MAX_MAGNITUDE)
        index = _checked_index(table_index, tables)
        order = _order(index, tables)
        index = index[order]
        grouped = checked.ravel()[order]
        symbols, escaped = _look_up(grouped, index, tables)
        for table, start, stop in _groups(index, tables):
            self._pending.append((symbols[start:stop], tables.models[table]))
        if escaped.size:
            self._escape(_excess(grouped[escaped], index[escaped], tables))
        self._count_symbols(name, grouped, symbols, escaped, index, tables)
        self.record(name, checked)
        return checked

    def uniform(
        self, name: str, values: IntArray | None, cardinality: int, shape: tuple[int, ...]
    ) -> NDArray[np.int32]:
        """See ``Coder.uniform``.

        Raises:
            ValueError: A value lies outside 0..cardinality-1, or the shape is another.
        """
        checked = _checked_uniform(values, cardinality, shape)
        if cardinality > 1 and checked.size:
            self._pending.append((checked.ravel(), ans.uniform(cardinality)))
        self._count_uniform(name, checked, cardinality)
        self.record(name, checked)
        return checked

    def rows(
        self, name: str, values: IntArray | None, weights: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """See ``Coder.rows``.

        Raises:
            ValueError: A value lies outside 0..K-1, or the weights break a rule.
        """
        checked = _checked_values(values, weights.shape[:1], 0, weights.shape[-1] - 1)
        starts, ends = _spans(checked, weights)
        if weights.shape[1] > 1 and checked.size:
            self._pending.append(_narrow(checked, starts, ends, weights.shape[1]))
        self._count_rows(name, ends - starts)
        return checked

    def finish(self) -> bytes:
        """Return the payload; the walk may go on and finish again, longer."""
        stack = ans.AnsStack()
        for symbols, model in reversed(self._pending):
            if isinstance(model, np.ndarray):
                stack.push_rows(symbols, model)
            else:
                stack.push(symbols, model)
        return stack.to_bytes()

    def _escape(self, excess: NDArray[np.int64]) -> None:
        lengths, suffixes = _exp_golomb(excess)
        self._pending.append((lengths, _LENGTH_MODEL))
        for length in range(1, len(_LENGTHS)):
            chosen = suffixes[lengths == length]
            if chosen.size:
                self._pending.append((chosen, ans.uniform(1 << length)))


class Reader(_Recorder):
    """Decodes a walk from a payload.

    Damage shows only at the end, if at all: until ``finish`` has passed, and the container's CRC
    before it, the symbols may be arbitrary (but never out of range).
    """

    def __init__(self, data: bytes) -> None:
        """Open a payload.

        Raises:
            DesyncError: No Writer ends a payload like this.
        """
        super().__init__()
        self._stack = ans.AnsStack(data)

    def symbols(
        self, name: str, values: IntArray | None, table_index: IntArray, tables: Tables
    ) -> NDArray[np.int32]:
        """See ``Coder.symbols``; values is not looked at.

        Raises:
            DesyncError: An escaped value is impossible.
        """
        index = _checked_index(table_index, tables)
        order = _order(index, tables)
        index = index[order]
        symbols = np.empty(index.size, dtype=np.int32)
        for table, start, stop in _groups(index, tables):
            symbols[start:stop] = self._stack.pop(stop - start, tables.models[table])
        grouped = symbols + tables.lows[index]
        escaped = np.flatnonzero(symbols == tables.escapes[index])
        if escaped.size:
            grouped[escaped] = _exceed(self._excess(escaped.size), index[escaped], tables)
        self._count_symbols(name, grouped, symbols, escaped, index, tables)
        decoded = np.empty_like(grouped)
        decoded[order] = grouped
        self.record(name, decoded)
        return decoded.reshape(table_index.shape)

    def uniform(
        self, name: str, values: IntArray | None, cardinality: int, shape: tuple[int, ...]
    ) -> NDArray[np.int32]:
        """See ``Coder.uniform``; values is not looked at."""
        _check_cardinality(cardinality)
        count = math.prod(shape)
        if cardinality > 1 and count:
            decoded = self._stack.pop(count, ans.uniform(cardinality))
        else:
            decoded = np.zeros(count, dtype=np.int32)
        self._count_uniform(name, decoded, cardinality)
        self.record(name, decoded)
        return decoded.reshape(shape)

    def rows(
        self, name: str, values: IntArray | None, weights: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """See ``Coder.rows``; values is not looked at."""
        count, cardinality = weights.shape
        frequencies = np.diff(_bounds(_cumulative(weights)), axis=1)
        if cardinality > 1 and count:
            decoded = self._stack.pop_rows(frequencies)
        else:
            decoded = np.zeros(count, dtype=np.int32)
        self._count_rows(name, frequencies[np.arange(count), decoded])
        return decoded

    def finish(self) -> None:
        """Check that the walk has used up the payload.

        Raises:
            DesyncError: Something is left.
        """
        if not self._stack.is_empty:
            raise DesyncError("entropy-coded data is left over after the last symbol")

    def _excess(self, count: int) -> NDArray[np.int64]:
        lengths = self._stack.pop(count, _LENGTH_MODEL)
        numbers = np.left_shift(1, lengths, dtype=np.int64)
        for length in range(1, len(_LENGTHS)):
            chosen = np.flatnonzero(lengths == length)
            if chosen.size:
                numbers[chosen] += self._stack.pop(chosen.size, ans.uniform(1 << length))
        return numbers - 1


class Meter(_Counter):
    """Counts the bits of a walk without coding it."""

    def symbols(
        self, name: str, values: IntArray | None, table_index: IntArray, tables: Tables
    ) -> NDArray[np.int32]:
        """See ``Coder.symbols``.

        Raises:
            ValueError: As Writer does.
        """
        checked = _checked_values(values, table_index.shape, -MAX_MAGNITUDE, MAX_MAGNITUDE)
        index = _checked_index(table_index, tables)
        flat = checked.ravel()
        symbols, escaped = _look_up(flat, index, tables)
        self._count_symbols(name, flat, symbols, escaped, index, tables)
        return checked

    def uniform(
        self, name: str, values: IntArray | None, cardinality: int, shape: tuple[int, ...]
    ) -> NDArray[np.int32]:
        """See ``Coder.uniform``.

        Raises:
            ValueError: As Writer does.
        """
        checked = _checked_uniform(values, cardinality, shape)
        self._count_uniform(name, checked, cardinality)
        return checked

    def rows(
        self, name: str, values: IntArray | None, weights: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """See ``Coder.rows``.

        Raises:
            ValueError: As Writer does.
        """
        checked = _checked_values(values, weights.shape[:1], 0, weights.shape[-1] - 1)
        starts, ends = _spans(checked, weights)
        self._count_rows(name, ends - starts)
        return checked

    def record(self, name: str, values: NDArray[np.int32]) -> None:
        """Nothing: what is only counted has no digest."""


def _checked_values(
    values: IntArray | None, shape: tuple[int, ...], low: int, high: int
) -> NDArray[np.int32]:
    """Return a copy of values as int32; all of these errors are bugs of the caller."""
    if values is None:
        raise ValueError("values may be None for a Reader only")
    if values.dtype.kind not in "iu":
        raise ValueError(f"values are {values.dtype}, not integers")
    if values.shape != shape:
        raise ValueError(f"values have shape {values.shape}, not {shape}")
    if values.size and not (low <= values.min() and values.max() <= high):
        raise ValueError(f"values span {values.min()}..{values.max()}, beyond {low}..{high}")
    return np.array(values, dtype=np.int32, order="C")


def _checked_uniform(
    values: IntArray | None, cardinality: int, shape: tuple[int, ...]
) -> NDArray[np.int32]:
    _check_cardinality(cardinality)
    return _checked_values(values, shape, 0, cardinality - 1)


def _check_cardinality(cardinality: int) -> None:
    if not 1 <= cardinality <= MAX_CARDINALITY:
        raise ValueError(f"cardinality {cardinality} is not in 1..{MAX_CARDINALITY}")


def _checked_index(table_index: IntArray, tables: Tables) -> NDArray[np.intp]:
    if table_index.dtype.kind not in "iu":
        raise ValueError(f"table indices are {table_index.dtype}, not integers")
    if table_index.size and not (0 <= table_index.min() and table_index.max() < len(tables)):
        raise ValueError(f"a table index is not in 0..{len(tables) - 1}")
    return table_index.ravel().astype(np.intp)


def _order(index: NDArray[np.intp], tables: Tables) -> NDArray[np.intp]:
    """Return the permutation [n] that sorts by table id, then raster order."""
    # numpy sorts small integers by radix, some ten times faster than others.
    narrow = np.uint8 if len(tables) <= 256 else np.uint16
    return np.argsort(index.astype(narrow), kind="stable")


def _groups(index: NDArray[np.intp], tables: Tables) -> list[tuple[int, int, int]]:
    """Return (table id, start, stop) of each run of equal ids in the sorted index [n]."""
    counts = np.bincount(index, minlength=len(tables))
    used = np.flatnonzero(counts)
    stops = np.cumsum(counts[used])
    return list(zip(used.tolist(), (stops - counts[used]).tolist(), stops.tolist(), strict=True))


def _look_up(
    values: NDArray[np.int32], index: NDArray[np.intp], tables: Tables
) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """Return the symbol of each value [n], and the positions of those that are escapes."""
    escapes = tables.escapes[index]
    # Seen as unsigned, a value below its table is a huge one, so a single minimum finds both ends.
    offsets = (values - tables.lows[index]).view(np.uint32)
    symbols = np.minimum(offsets, escapes.view(np.uint32)).view(np.int32)
    return symbols, np.flatnonzero(symbols == escapes)


def _excess(
    values: NDArray[np.int32], index: NDArray[np.intp], tables: Tables
) -> NDArray[np.int64]:
    """Number the values [n] outside their tables: even ones lie above, odd ones below."""
    above = values.astype(np.int64) - tables.lows[index] - tables.escapes[index]
    below = tables.lows[index].astype(np.int64) - values - 1
    return np.where(above >= 0, 2 * above, 2 * below + 1)


def _exceed(
    excess: NDArray[np.int64], index: NDArray[np.intp], tables: Tables
) -> NDArray[np.int64]:
    """Undo ``_excess``.

    Raises:
        DesyncError: A value would lie outside ±MAX_MAGNITUDE.
    """
    lows = tables.lows[index].astype(np.int64)
    distance = excess >> 1
    values = np.where(excess & 1, lows - 1 - distance, lows + tables.escapes[index] + distance)
    if np.abs(values).max() > MAX_MAGNITUDE:
        raise DesyncError(f"entropy-coded data holds a value outside ±{MAX_MAGNITUDE:,}")
    return values


def _exp_golomb(excess: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Split excess + 1 [n] into its bit length less one, and the bits below the leading one."""
    numbers = excess + 1
    lengths = np.frexp(numbers.astype(np.float64))[1].astype(np.int32) - 1
    return lengths, (numbers - np.left_shift(1, lengths, dtype=np.int64)).astype(np.int32)


def _cumulative(weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sums [n, K + 1] of the first 0..K weights of each row, checked."""
    if weights.dtype != np.int64 or weights.ndim != 2:
        raise ValueError(f"weights are {weights.dtype} {weights.shape}, not int64 [n, K]")
    count, cardinality = weights.shape
    _check_cardinality(cardinality)
    sums = np.zeros((count, cardinality + 1), np.int64)
    if count:
        if weights.min() < 0 or weights.max() > MAX_WEIGHT:
            raise ValueError(f"a weight is not in 0..{MAX_WEIGHT:,}")
        weights.cumsum(1, out=sums[:, 1:])
        totals = sums[:, -1]
        if totals.min() < 1 or totals.max() > MAX_WEIGHT:
            raise ValueError(f"the sum of a row of weights is not in 1..{MAX_WEIGHT:,}")
    return sums


def _bounds(sums: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where in 0..2**24 each value starts and the last one ends, [n, K + 1]."""
    cardinality = sums.shape[1] - 1
    # Every value has one unit; the sums, not the weights, are scaled, so nothing is left over.
    bounds: NDArray[np.int64] = sums * (TOTAL - cardinality)
    bounds //= sums[:, -1:]
    bounds += np.arange(cardinality + 1)
    return bounds


def _spans(
    values: NDArray[np.int32], weights: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ``_bounds`` of the given values only: starts and ends, int64 [n]."""
    sums = _cumulative(weights)
    row = np.arange(len(values))
    scale, totals = TOTAL - weights.shape[1], sums[:, -1]
    starts = sums[row, values] * scale // totals + values
    return starts, sums[row, values + 1] * scale // totals + values + 1


def _narrow(
    symbols: NDArray[np.int32],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    cardinality: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return symbols [n] of rows [n, 3] that push the same as those of all frequencies.

    ANS looks at a symbol's own span only, so all that lies before it may be one symbol, and all
    that lies after it another. As none may be empty, the first and the last are split elsewhere.
    """
    if cardinality == 2:  # a row of three would need three units
        split = np.where(symbols == 0, ends, starts)
        return symbols, np.stack([split, TOTAL - split], 1).astype(np.int32)
    low = np.where(symbols == 0, ends, np.where(ends == TOTAL, 1, starts))
    high = np.where(symbols == 0, ends + 1, np.where(ends == TOTAL, starts, ends))
    place = np.where(symbols == 0, 0, np.where(ends == TOTAL, 2, 1)).astype(np.int32)
    return place, np.stack([low, high - low, TOTAL - high], 1).astype(np.int32)
