"""Index maps, coded with contexts that learn as they go; formats/families.md has it for others.

What an entry is as likely as is a product: of counts seen after each neighbour, of how near its
colour lies to theirs, of counts beside what the groups before hold there. Each factor has an
exponent, and all exponents follow the gradient of the code length. Everything is an integer: where
an array is float64, that is only because products of integers below 2**53 are quicker so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdcodec.codec import IntArray
from cdcodec.entropy.coder import Coder
from cdcodec.errors import WeightsError

PREFIX = "exact.index_"
"""Arrays of a weight file that hold the model start with this."""

SEEN = 256
"""What a count grows by; counts that nothing was seen of yet are fractions of it."""

UNIT = 64
"""Logarithms are integers in this part of a bit."""

REACH = 20
"""Bits between the likeliest entry and those that are as unlikely as can be."""

ONE = 2**16
"""An exponent of one."""

LESSON = 64
"""Positions after which something is learnt, at the end of a wave: so few that little is lost, and
so many that an encoder, which knows all of them, codes them at once."""

BATCH = 32
"""Positions that a step of the exponents counts at most."""

NEAR = ("left", "above", "above left", "above right")

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class IndexModel:
    """The numbers of the context model, which a weight file stores. All are int32.

    Attributes:
        log: [64], log2(1 + (i + 1/2) / 64) in 1/64 bits, rounded.
        exp: [64], 2**(20 + i / 64), rounded.
        kernel: [n], what a neighbour's entry is worth by the distance of colours, n - 1 and more
            in the last one.
        activity: [n], rising bounds between classes of activity.
        priors: [3], what all counts of a context have together before anything was seen: all
            entries alike, a neighbour's, other contexts'; in 1/256.
        exponents: [8], at the start: all, the four neighbours, colours, activity, other groups.
        rates: [3], the exponents' step: at first, at last, and how many lessons are in between.
    """

    log: IntArray
    exp: IntArray
    kernel: IntArray
    activity: IntArray
    priors: IntArray
    exponents: IntArray
    rates: IntArray

    def __post_init__(self) -> None:
        sizes = {"log": 64, "exp": 64, "priors": 3, "exponents": 8, "rates": 3}
        limits = {"log": (0, 64), "exponents": (-4 * ONE, 4 * ONE), "rates": (0, 2**15)}
        for field in fields(self):
            array = np.array(getattr(self, field.name), order="C")
            low, high = limits.get(field.name, (1, 2**21))
            if array.dtype != np.int32 or array.ndim != 1:
                raise WeightsError(f"index model: {field.name} is not a vector of int32")
            if not 1 <= len(array) <= 1024 or len(array) != sizes.get(field.name, len(array)):
                raise WeightsError(f"index model: {field.name} has {len(array)} numbers")
            if array.min() < low or array.max() > high:
                raise WeightsError(f"index model: {field.name} has a number beyond {low}..{high}")
            array.setflags(write=False)
            object.__setattr__(self, field.name, array)
        if (np.diff(self.activity) < 0).any():
            raise WeightsError("index model: activity does not rise")

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what a weight file stores, by name."""
        return {PREFIX + field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> IndexModel:
        """Find the arrays of ``arrays()`` again.

        Raises:
            WeightsError: If one is missing or impossible.
        """
        try:
            return cls(**{field.name: arrays[PREFIX + field.name] for field in fields(cls)})
        except KeyError as error:
            raise WeightsError(f"weight file lacks the array {error.args[0]!r}") from None

    def digest(self) -> bytes:
        """Return a SHA-256 over the arrays in their order: u32 length, then int32."""
        digest = hashlib.sha256()
        for field in fields(self):
            array = getattr(self, field.name)
            digest.update(len(array).to_bytes(4, "little") + array.astype("<i4").tobytes())
        return digest.digest()

    def bits(self, numbers: Int64) -> Float64:
        """Return log2 of integers, 1 or more, in 1/64 bits, as whole float64."""
        mantissa, exponent = np.frexp(numbers.astype(np.float64))
        place = ((mantissa - 0.5) * (2 * UNIT)).astype(np.int64)
        logs: Float64 = (UNIT * (exponent - 1) + self.log[place]).astype(np.float64)
        return logs

    def powers(self) -> Float64:
        """Return 2**(i / 64) for i = 0.., up to 2**20 as the last one."""
        steps = np.arange(REACH * UNIT + 1)
        return (self.exp[steps % UNIT].astype(np.int64) >> (REACH - steps // UNIT)).astype(
            np.float64
        )


def code(
    coder: Coder,
    index: IntArray | None,
    palettes: Sequence[IntArray],
    rows: int,
    columns: int,
    model: IndexModel,
) -> IntArray:
    """Code the index maps of all groups and return what the reader will have.

    Args:
        coder: A Writer, Reader or Meter.
        index: int32 [G, rows, columns], entries of the palettes; a Reader takes None.
        palettes: int32 [K, C] a group. A single entry costs nothing.
        rows: Of a map.
        columns: Of a map.
        model: The weight file's.
    """
    if index is not None:
        for group, palette in zip(index, palettes, strict=True):
            if group.min() < 0 or group.max() >= len(palette):
                raise ValueError("an index is beyond its palette")
    done = np.zeros((len(palettes), rows, columns), np.int32)
    lessons = _lessons(_waves(rows, columns))
    activity = np.zeros((rows, columns), np.int64)
    for g, palette in enumerate(palettes):
        if len(palette) == 1:
            continue
        classes = np.searchsorted(model.activity, activity, side="right")
        beside = [(classes, len(model.activity) + 1)] if g else []
        beside += [(done[h], len(palettes[h])) for h in range(g) if len(palettes[h]) > 1]
        group = _Group(palette.astype(np.int64), beside, rows, columns, model)
        name = f"index_{g}"
        for lesson in lessons:
            if index is None:
                for wave in lesson:
                    group.take(wave, coder.rows(name, None, group.weights(wave)))
            else:
                wave = np.concatenate(lesson)
                values = index[g].ravel()[wave]
                group.take(wave, values)
                coder.rows(name, values, group.weights(wave))
            group.learn()
        done[g] = group.decoded()
        coder.record(name, done[g])
        activity += _activity(palette.astype(np.int64)[done[g]])
    return done


class _Group:
    """One group's map while it is coded, and all that was learnt of it."""

    def __init__(
        self,
        palette: Int64,
        beside: Sequence[tuple[IntArray | Int64, int]],
        rows: int,
        columns: int,
        model: IndexModel,
    ) -> None:
        """Start with nothing decoded.

        Args:
            palette: int64 [K, C], K >= 2.
            beside: Contexts that are known, [rows, columns], and how many values each has:
                activity first, then the maps of other groups.
            rows: Of the map.
            columns: Of the map.
            model: The weight file's.
        """
        self.model, self.powers = model, model.powers()
        self.entries = entries = len(palette)
        # A row above and a column to either side hold `entries`: beyond the map.
        self.stride = columns + 2
        self.map = np.full((rows + 1) * self.stride, entries)
        place = np.arange(1, rows + 1)[:, None] * self.stride + np.arange(1, columns + 1)
        self.place = place.ravel()
        self.beyond = np.array([1, self.stride, self.stride + 1, self.stride - 1])
        near = _near(palette, model)
        start, apart, other = model.priors.tolist()
        sizes = [1, *[entries + 1] * len(NEAR), *[size for _, size in beside], entries + 1]
        self.first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        self.counts = np.full((sum(sizes), entries), max(other // entries, 1))
        self.counts[0] = max(start // entries, 1)
        self.counts[-len(near) :] = near
        prior = np.maximum(near * apart // near.sum(1, keepdims=True), 1)
        self.counts[1 : 1 + len(NEAR) * len(near)] = np.tile(prior, (len(NEAR), 1))
        known = model.bits(np.stack([prior, near]))
        self.logs = np.full(self.counts.shape, model.bits(self.counts[-len(near) - 1, :1])[0])
        self.logs[0] = model.bits(self.counts[0, :1])[0]
        self.logs[1 : 1 + len(NEAR) * len(near)] = np.tile(known[0], (len(NEAR), 1))
        self.logs[-len(near) :] = known[1]
        # Contexts of every position as rows of counts; those of neighbours come as they are known.
        self.context = np.zeros((rows * columns, len(self.first) + 1), np.int64)
        for i, (values, _) in enumerate(beside):
            self.context[:, 5 + i] = self.first[5 + i] + values.ravel()
        self.learning = len(self.first) - 1  # colours are known from the start: nothing to learn
        kinds = [0, 1, 2, 3, 4, *([6] if beside else []), *[7] * (len(beside) - 1), 5, 5]
        self.exponents = model.exponents[kinds].astype(np.int64)
        self.lessons = 0
        self.heard: list[tuple[Int64, Float64, Float64]] = []  # since the last lesson

    def weights(self, wave: Int64) -> Int64:
        """Return what each entry is as likely as, int64 [n, K], at positions [n]."""
        context = self.context[wave]
        near = self.map[self.place[wave][:, None] - self.beyond]
        context[:, 1:5] = self.first[1:5] + near
        context[:, -2:] = self.first[-1] + near[:, :2]
        self.context[wave] = context
        factors = self.logs[context]  # [n, factors, K]
        scores = np.matmul(self.exponents.astype(np.float64), factors)
        scores *= 1 / ONE
        scores = np.floor(scores, out=scores)
        scores -= scores.max(1, keepdims=True) - REACH * UNIT
        np.maximum(scores, 0, out=scores)
        likely = self.powers[scores.astype(np.intp)]
        self.heard.append((wave, factors, likely))
        weights: Int64 = likely.astype(np.int64)
        return weights

    def take(self, wave: Int64, values: IntArray) -> None:
        """Take the entries [n] at positions [n]."""
        self.map[self.place[wave]] = values

    def learn(self) -> None:
        """Learn from all that the weights were asked for, and the entries that were taken there."""
        wave, factors, likely = (
            each[0] if len(each) == 1 else np.concatenate(each)
            for each in zip(*self.heard, strict=True)
        )
        self.heard.clear()
        values = self.map[self.place[wave]]
        self._follow(values, factors, likely)
        now = self.context[wave, : self.learning]
        seen = (now * self.entries + values[:, None]).ravel()
        counts, logs = self.counts.reshape(-1), self.logs.reshape(-1)
        np.add.at(counts, seen, SEEN)
        logs[seen] = self.model.bits(counts[seen])

    def _follow(self, values: Int64, factors: Float64, likely: Float64) -> None:
        """Move the exponents along the gradient: of each factor, what it was less its mean."""
        actual = factors[np.arange(len(values)), :, values].astype(np.int64)
        sums = np.matmul(factors, likely[:, :, None])[:, :, 0].astype(np.int64)
        totals = likely.sum(1).astype(np.int64)
        slope = (16 * actual - 16 * sums // totals[:, None]).sum(0)
        fast, slow, until = self.model.rates.tolist()
        rate = max(fast - (fast - slow) * self.lessons // max(until, 1), slow)
        step = slope * (rate * min(len(values), BATCH)) // len(values) >> 10
        self.exponents = np.clip(self.exponents + step, -4 * ONE, 4 * ONE)
        self.lessons += 1

    def decoded(self) -> IntArray:
        """Return the map, int32 [rows, columns]."""
        whole = self.map.reshape(-1, self.stride)[1:, 1:-1]
        return whole.astype(np.int32)


def _waves(rows: int, columns: int) -> list[Int64]:
    """Return positions by x + 2 y: all that comes before one of them is in an earlier wave."""
    time = (2 * np.arange(rows)[:, None] + np.arange(columns)).ravel()
    order = np.argsort(time, kind="stable")
    sizes = np.bincount(time)
    return [wave for wave in np.split(order, np.cumsum(sizes)[:-1]) if len(wave)]


def _lessons(waves: Sequence[Int64]) -> list[list[Int64]]:
    """Return runs of waves of LESSON positions or more, but for the last run."""
    lessons: list[list[Int64]] = [[]]
    for wave in waves:
        if sum(map(len, lessons[-1])) >= LESSON:
            lessons.append([])
        lessons[-1].append(wave)
    return lessons


def _distance(squares: Int64) -> Int64:
    # A float64 root is rounded correctly everywhere, so its whole part is exact here.
    return np.sqrt(squares.astype(np.float64)).astype(np.int64)


def _near(palette: Int64, model: IndexModel) -> Int64:
    """Return what each entry is worth after each, [K + 1, K]; the last row is for none."""
    squares = np.square(palette).sum(1)
    apart = _distance(squares[:, None] + squares - 2 * palette @ palette.T)
    near = np.ones((len(palette) + 1, len(palette)), np.int64)
    near[:-1] = model.kernel[np.minimum(apart, len(model.kernel) - 1)]
    return near


def _activity(colours: Int64) -> Int64:
    """Return the sum of distances to the four neighbours, of colours [rows, columns, C]."""
    across = _distance(np.square(np.diff(colours, axis=1)).sum(2))
    down = _distance(np.square(np.diff(colours, axis=0)).sum(2))
    activity = np.zeros(colours.shape[:2], np.int64)
    activity[:, 1:] += across
    activity[:, :-1] += across
    activity[1:] += down
    activity[:-1] += down
    return activity


def _default() -> IndexModel:
    """Make the numbers anew; for training only, as a weight file stores what this returned."""
    unit = np.arange(UNIT)
    distance = np.arange(443)
    return IndexModel(
        log=_rounded(UNIT * np.log2(1 + (unit + 0.5) / UNIT)),
        exp=_rounded(2.0 ** (REACH + unit / UNIT)),
        kernel=_rounded(np.maximum(2**20 * (1 + (distance / 8) ** 2) ** -1.5, 1)),
        activity=np.array([4, 10, 18, 30, 47, 70, 103, 150, 216, 310, 442], np.int32),
        priors=_rounded(np.array([128, 8, 8]) * SEEN),
        exponents=_rounded(ONE * np.array([-0.4, 0.3, 0.2, 0.1, 0.1, 0.15, 0.3, 0.25])),
        rates=np.array([160, 120, 60], np.int32),
    )


def _rounded(numbers: Float64) -> IntArray:
    return np.rint(numbers).astype(np.int32)


DEFAULT = _default()
"""Found on photographs."""
