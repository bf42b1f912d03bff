"""Index maps, coded with contexts that learn as they go; formats/families.md has it for others.

What an entry is as likely as is a product: of counts seen after each neighbour, of how near its
colour lies to theirs, of counts beside what the groups before hold there. Each factor has an
exponent, and all exponents follow the gradient of the code length. Everything is an integer: where
an array is of floats, that is only because products of integers are quicker so.
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
from cdcodec.errors import DesyncError, WeightsError

PREFIX = "exact.index_"
"""Arrays of a weight file that hold the model start with this."""

SEEN = 256
"""What a count grows by; counts that nothing was seen of yet are fractions of it."""

UNIT = 64
"""Logarithms are integers in this part of a bit."""

REACH = 20
"""Bits between the likeliest entry and those that are as unlikely as can be."""

ONE = 2**16
"""An exponent of one, which is the largest."""

FINE = 7
"""Bits of an exponent that only learning sees: without them, all that a score is summed of are
integers below 2**24, which are exact in float32 in whatever order they are added."""

MAX_GROUPS = 8
"""Most groups for which that holds."""

SHARES = 2**12
"""What the weights of a position have together when something is learnt from them."""

LAG = 3
"""Waves that a group is behind the one before: it asks for the neighbours there on all sides."""

LESSON = 64
"""Positions of a group after which something is learnt, at the end of a wave: so few that little is
lost, and so many that an encoder, which knows all of them, codes them at once."""

BATCH = 32
"""Positions that a step of the exponents counts at most."""

NEAR = ("left", "above", "above left", "above right")

# Contexts of a position, as columns: all, those of NEAR, activity, the groups before, and the
# colours of the first two of NEAR.
NEIGHBOURS = slice(1, 1 + len(NEAR))
ACTIVITY = NEIGHBOURS.stop
OTHERS = slice(ACTIVITY + 1, -2)
COLOURS = slice(-2, None)
LEARNING = slice(-2)
"""Colours are known from the start: nothing is to be learnt."""

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
        limits = {"log": (0, 64), "exponents": (-ONE, ONE), "rates": (0, 2**15)}
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

    Raises:
        ValueError: If an index to write is beyond its palette.
        DesyncError: If one that was read is.
    """
    if index is not None:
        for group, palette in zip(index, palettes, strict=True):
            if group.min() < 0 or group.max() >= len(palette):
                raise ValueError("an index is beyond its palette")
    done = np.zeros((len(palettes), rows, columns), np.int32)
    coded = [g for g, palette in enumerate(palettes) if len(palette) > 1]
    if not coded:
        return done
    lessons = _lessons(_waves(len(coded), rows, columns), LESSON * len(coded))
    longest = max(sum(map(len, lesson)) for lesson in lessons)
    maps = _Maps([palettes[g].astype(np.int64) for g in coded], rows, columns, longest, model)
    if index is not None:
        maps.fill(index[coded])
    for lesson in lessons:
        if index is None:
            for wave in lesson:
                maps.take(wave, coder.rows("index", None, maps.weights(wave)))
        else:
            wave = np.concatenate(lesson)
            coder.rows("index", maps.values(wave), maps.weights(wave))
        maps.learn()
    done[coded] = maps.decoded()
    for g in coded:
        coder.record(f"index_{g}", done[g])
    return done


class _Maps:
    """The maps of all groups while they are coded, and all that was learnt of them.

    Groups are coded in step, so arrays hold all of them: positions are numbered through, one map
    after another, and rows of counts are as long as the largest palette's.
    """

    def __init__(
        self,
        palettes: Sequence[Int64],
        rows: int,
        columns: int,
        longest: int,
        model: IndexModel,
    ) -> None:
        """Start with nothing known.

        Args:
            palettes: int64 [K, C] of each group, K >= 2.
            rows: Of a map.
            columns: Of a map.
            longest: Positions of the longest lesson.
            model: The weight file's.
        """
        self.model, self.powers = model, model.powers()
        self.sizes = sizes = np.array([len(palette) for palette in palettes])
        self.shape = groups, _, _ = len(palettes), rows, columns
        entries = int(sizes.max())
        # A row above and below and a column to either side hold K: beyond the map.
        self.stride = columns + 2
        self.plane = (rows + 2) * self.stride
        self.map = np.repeat(sizes, self.plane)
        self.activity = np.zeros(len(self.map), np.int64)
        inside = np.arange(1, rows + 1)[:, None] * self.stride + np.arange(1, columns + 1)
        self._planes_before = np.arange(groups - 1) * self.plane
        self.place = (np.arange(groups)[:, None] * self.plane + inside.ravel()).ravel()
        self.beyond = np.array([1, self.stride, self.stride + 1, self.stride - 1])
        self._lay_out(entries)
        self._start(palettes, entries)
        self.lessons = 0
        self.heard: list[tuple[Int64, Int64]] = []  # positions and rows since the last lesson
        # What was found there: large arrays made anew would cost more than what is in them.
        self.factors = np.empty((longest, self.first.shape[1], entries), np.float32)
        self.likely = np.empty((longest, entries))

    def _lay_out(self, entries: int) -> None:
        """Say which row of counts a context's first is, and which exponent is whose.

        A context that a group lacks is the table's last row, which knows nothing. Those of colours
        are one.
        """
        groups, sizes = len(self.sizes), self.sizes
        self.lower = np.tri(groups, groups - 1, -1, dtype=np.int64)
        activity = (np.arange(groups) > 0) * (len(self.model.activity) + 1)
        neighbours = np.repeat(sizes[:, None] + 1, len(NEAR), 1)
        lengths = np.column_stack(
            [np.ones_like(sizes), neighbours, activity, self.lower * sizes[:-1], sizes + 1]
        )
        ends = lengths.ravel().cumsum().reshape(lengths.shape)
        self.rows = int(ends[-1, -1])
        first = np.where(lengths > 0, ends - lengths, self.rows)
        self.first = np.column_stack([first, first[:, -1]])
        kinds = np.array([0, 1, 2, 3, 4, 6, *[7] * (groups - 1), 5, 5])  # in model.exponents
        self.exponents = np.where(
            self.first < self.rows, self.model.exponents[kinds].astype(np.int64), 0
        )
        self.counts = np.ones((self.rows + 1, entries), np.int64)
        self.logs = np.zeros(self.counts.shape, np.float32)

    def _start(self, palettes: Sequence[Int64], entries: int) -> None:
        """Fill in counts, their logarithms, and distances of colours."""
        start, apart, other = self.model.priors.tolist()
        self.colours = np.concatenate([[0], (self.sizes + 1).cumsum()])
        self.apart = np.zeros((int(self.colours[-1]), entries), np.int64)  # 0 from beyond the map
        self.missing = np.zeros((len(palettes), entries), np.float32)
        for g, palette in enumerate(palettes):
            size, first = len(palette), self.first[g]
            distance = _distances(palette)
            near = np.ones((size + 1, size), np.int64)
            near[:-1] = self.model.kernel[np.minimum(distance, len(self.model.kernel) - 1)]
            last = self.rows if g + 1 == len(palettes) else int(self.first[g + 1, 0])
            prior = np.maximum(near * apart // near.sum(1, keepdims=True), 1)
            own, colours = first[0] + 1, first[COLOURS][0]
            others = own + len(NEAR) * (size + 1)
            self._set(slice(first[0], own), np.full((1, size), max(start // size, 1)))
            self._set(slice(own, others), prior)
            self._set(slice(others, colours), np.full((1, size), max(other // size, 1)))
            self._set(slice(colours, last), near)
            self.apart[self.colours[g] :][:size, :size] = distance
            self.missing[g, size:] = -np.inf

    def _set(self, rows: slice, counts: Int64) -> None:
        """Fill rows with counts [r, K], as often as they fit in."""
        for table, numbers in ((self.counts, counts), (self.logs, self.model.bits(counts))):
            repeated = table[rows].reshape(-1, len(counts), table.shape[1])
            repeated[..., : counts.shape[1]] = numbers

    def fill(self, index: IntArray) -> None:
        """Take all maps at once, [G, rows, columns]."""
        self.map[self.place] = index.ravel()
        self._be_active(np.arange(len(self.place)))

    def values(self, wave: Int64) -> IntArray:
        """Return the entries [n] at positions [n]."""
        values: IntArray = self.map[self.place[wave]]
        return values

    def take(self, wave: Int64, values: IntArray) -> None:
        """Take the entries [n] at positions [n].

        Raises:
            DesyncError: If there is no such entry.
        """
        if (values >= self.sizes[wave // self._positions]).any():
            raise DesyncError("an index map names an entry that its palette lacks")
        self.map[self.place[wave]] = values
        self._be_active(wave)

    @property
    def _positions(self) -> int:
        return self.shape[1] * self.shape[2]

    def _be_active(self, wave: Int64) -> None:
        """Add to activity how far the colours at positions are from those left and above."""
        place = self.place[wave]
        values, row = self.map[place], self.colours[wave // self._positions]
        for beyond in self.beyond[:2]:
            distance = self.apart[row + self.map[place - beyond], values]
            # A wave has no two positions with the same neighbour; all maps at once have, but not
            # in one direction.
            self.activity[place] += distance
            self.activity[place - beyond] += distance

    def weights(self, wave: Int64) -> Int64:
        """Return what each entry is as likely as, int64 [n, K], at positions [n]."""
        group, place = wave // self._positions, self.place[wave]
        near = self.map[place[:, None] - self.beyond]
        context = self.first[group]
        context[:, NEIGHBOURS] += near
        context[:, COLOURS] += near[:, :2]
        if len(self.sizes) > 1:
            before = (place - group * self.plane)[:, None] + self._planes_before
            lower = self.lower[group]
            activity = (self.activity[before] * lower).sum(1)
            classes = np.searchsorted(self.model.activity, activity, side="right")
            context[:, ACTIVITY] += classes * lower[:, 0]
            context[:, OTHERS] += self.map[before] * lower
        known = sum(len(each) for each, _ in self.heard)
        self.heard.append((wave, context))
        factors = self.factors[known : known + len(wave)]  # [n, factors, K]
        likely = self.likely[known : known + len(wave)]
        np.take(self.logs, context, 0, out=factors, mode="clip")  # no row is beyond the table
        exponents = (self.exponents >> FINE).astype(np.float32)
        scores = np.matmul(exponents[group, None], factors)[:, 0]
        scores *= 2**FINE / ONE
        np.floor(scores, out=scores)
        scores += self.missing[group]
        scores -= scores.max(1, keepdims=True) - REACH * UNIT
        np.maximum(scores, 0, out=scores)
        np.take(self.powers, scores.astype(np.intp), out=likely, mode="clip")
        return likely.astype(np.int64)

    def learn(self) -> None:
        """Learn from all that the weights were asked for, and the entries that were taken there."""
        wave, context = map(np.concatenate, zip(*self.heard, strict=True))
        self.heard.clear()
        values = self.values(wave)
        self._follow(wave // self._positions, values)
        now = context[:, LEARNING]
        seen = (now * self.counts.shape[1] + values[:, None]).ravel()
        counts, logs = self.counts.reshape(-1), self.logs.reshape(-1)
        np.add.at(counts, seen, SEEN)
        logs[seen] = self.model.bits(counts[seen])
        self.logs[-1] = 0

    def _follow(self, group: Int64, values: IntArray) -> None:
        """Move the exponents along the gradient: of each factor, what it was less its mean."""
        factors, likely = self.factors[: len(group)], self.likely[: len(group)]
        actual = factors[np.arange(len(values)), :, values].astype(np.int64)
        # The quotient of integers below 2**34 and 2**30 never rounds up to a whole number.
        shares = np.floor(likely * SHARES / likely.sum(1, keepdims=True)).astype(np.float32)
        sums = np.matmul(factors, shares[:, :, None])[:, :, 0].astype(np.int64)
        slopes = 16 * actual - 16 * sums // shares.sum(1, keepdims=True).astype(np.int64)
        of_group = (group == np.arange(len(self.sizes))[:, None]).astype(np.int64)
        count = np.maximum(of_group.sum(1, keepdims=True), 1)
        fast, slow, until = self.model.rates.tolist()
        rate = max(fast - (fast - slow) * self.lessons // max(until, 1), slow)
        step = of_group @ slopes * (rate * np.minimum(count, BATCH)) // count >> 10
        self.exponents = np.clip(self.exponents + step, -ONE, ONE)
        self.lessons += 1

    def decoded(self) -> IntArray:
        """Return the maps, int32 [G, rows, columns]."""
        return self.map[self.place].reshape(self.shape).astype(np.int32)


def _waves(groups: int, rows: int, columns: int) -> list[Int64]:
    """Return positions by x + 2 y + LAG g: all that comes before one is in an earlier wave."""
    time = LAG * np.arange(groups)[:, None, None]
    time = (time + 2 * np.arange(rows)[:, None] + np.arange(columns)).ravel()
    order = np.argsort(time, kind="stable")
    sizes = np.bincount(time)
    return [wave for wave in np.split(order, np.cumsum(sizes)[:-1]) if len(wave)]


def _lessons(waves: Sequence[Int64], least: int) -> list[list[Int64]]:
    """Return runs of waves of so many positions or more, but for the last run."""
    lessons: list[list[Int64]] = [[]]
    size = 0
    for wave in waves:
        if size >= least:
            lessons.append([])
            size = 0
        lessons[-1].append(wave)
        size += len(wave)
    return lessons


def _distances(palette: Int64) -> Int64:
    """Return the whole part of the distance of each two colours [K, K]."""
    squares = np.square(palette).sum(1)
    squares = squares[:, None] + squares - 2 * palette @ palette.T
    # A float64 root is rounded correctly everywhere, so its whole part is exact here.
    distances: Int64 = np.sqrt(squares.astype(np.float64)).astype(np.int64)
    return distances


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
