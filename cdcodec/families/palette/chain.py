"""Content-adaptive palettes and the chain that merges them (paper 000, sec. 3.2.1, alg. 1, eq. 4).

Integers only, and no order of summation matters: the same latent gives the same chain everywhere,
and a file's palettes and counts give the rest of the chain that they are a link of. For that, a
link never depends on how entries are numbered: palettes are sorted, and ties go by colour.

Deviations from the paper, with their reasons. Centroids start by a seeded k-means|| and move until
they rest or for a few rounds: alg. 1 starts at random points and moves once, which nobody else can
reproduce. Linkage, which the paper leaves open, is Ward's, weighted by counts. A latent's channels
are in groups, each with a palette of its own, and the cheapest merge of all groups is made: at 1/8
of an image's size, a single palette of 256 entries ends at 0.14 bits per pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdcodec.codec import IntArray
from cdcodec.errors import InputError

MAX_ENTRIES = 256
"""Most entries of a palette."""

SEED = 0x70616C65
SEEDS_A_ROUND = 8
ROUNDS = 6
"""Rounds of Lloyd's algorithm; more of them gain less than a hundredth of a decibel."""

COST_UNIT = 16
"""Costs are integers in parts of so many."""

CHUNK = 512
"""Points that are looked at together."""

NEVER = np.iinfo(np.int64).max

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Palette:
    """Entries of one group, sorted by colour, all different.

    Attributes:
        colours: int64 [K, C], 0..255.
        counts: int64 [K], positions that have each.
    """

    colours: Int64
    counts: Int64

    def __len__(self) -> int:
        return len(self.counts)


def keys(colours: IntArray | Int64) -> Int64:
    """Return colours [K, C], C at most 7, as numbers [K] of the same order."""
    places = 256 ** np.arange(colours.shape[1] - 1, -1, -1, dtype=np.int64)
    numbers: Int64 = colours.astype(np.int64) @ places
    return numbers


def quantise(points: IntArray, entries: int = MAX_ENTRIES) -> tuple[Palette, IntArray]:
    """Find a palette for points and assign them to it.

    Args:
        points: int32 [N, C], 0..255.
        entries: Most entries it may have.

    Returns:
        The palette, and the entry of every point, int32 [N].
    """
    _, first, inverse, counts = np.unique(
        keys(points), return_index=True, return_inverse=True, return_counts=True
    )
    different = points[first].astype(np.int64)
    centres = different
    if len(different) > entries:
        centres = _seeds(different, counts, entries)
        for _ in range(ROUNDS):
            moved = _means(different, counts, _nearest(different, centres), len(centres))
            if len(moved) == len(centres) and (moved == centres).all():
                break
            centres = moved
    assigned = _nearest(different, centres)
    used, assigned = np.unique(assigned, return_inverse=True)
    totals = np.bincount(assigned, counts, len(used)).astype(np.int64)
    return Palette(centres[used], totals), assigned[inverse].astype(np.int32)


def counted(colours: IntArray, index: IntArray) -> Palette:
    """Return the palette of a file: its colours [K, C], counted in the index map, of any shape."""
    counts = np.bincount(index.ravel(), minlength=len(colours)).astype(np.int64)
    return Palette(colours.astype(np.int64), counts)


def check_size(positions: int, channels: int) -> None:
    """Refuse a latent for which the cost of a merge might leave 64 bits.

    Raises:
        InputError: Above 3.4 million positions, if groups have three channels.
    """
    if COST_UNIT * positions**2 // 4 * channels * 255**2 >= NEVER:
        raise InputError(f"a latent of {positions:,} positions is too large for palettes")


class Chain:
    """All that palettes become as their entries are merged, one by one.

    Attributes:
        start: The palettes, one a group.
        total: Entries that they have together.
    """

    def __init__(self, start: Sequence[Palette], weights: Sequence[int]) -> None:
        """Merge until every group has one entry.

        Args:
            start: One palette a group.
            weights: What a squared error counts for, by group, 1..255.

        Raises:
            InputError: See check_size.
        """
        for palette in start:
            check_size(int(palette.counts.sum()), palette.colours.shape[1])
        self.start = tuple(start)
        self.total = sum(map(len, start))
        groups = [_Group(palette) for palette in start]
        self._merges: list[tuple[int, int, int]] = []  # group, entry that stays, entry that goes
        self._colours: list[Int64] = []
        best = [group.cheapest() for group in groups]
        while True:
            costs = [
                NEVER if each == NEVER else each * weight
                for each, weight in zip(best, weights, strict=True)
            ]
            g = int(np.argmin(costs))
            if costs[g] == NEVER:
                break
            stays, goes, colour = groups[g].merge()
            self._merges.append((g, stays, goes))
            self._colours.append(colour)
            best[g] = groups[g].cheapest()

    def at(self, total: int) -> tuple[list[Palette], list[IntArray]]:
        """Return the longest link with at most so many entries, at least one a group.

        Returns:
            Its palettes, and of every group what each entry of the start became, int32 [K].
        """
        colours = [palette.colours.copy() for palette in self.start]
        counts = [palette.counts.copy() for palette in self.start]
        became = [np.arange(len(palette)) for palette in self.start]
        left = self.total
        for step, ((g, stays, goes), colour) in enumerate(
            zip(self._merges, self._colours, strict=True)
        ):
            if left <= total:
                break
            counts[g][stays] += counts[g][goes]
            counts[g][goes] = 0
            colours[g][stays] = colour
            became[g][became[g] == goes] = stays
            left = self.total - step - 1
        palettes, maps = [], []
        for colour, count, entry in zip(colours, counts, became, strict=True):
            alive = np.flatnonzero(count)
            order = alive[np.argsort(keys(colour[alive]))]
            place = np.zeros(len(count), np.int32)
            place[order] = np.arange(len(order), dtype=np.int32)
            palettes.append(Palette(colour[order], count[order]))
            maps.append(place[entry])
        return palettes, maps


class _Group:
    """The entries of a group while they are merged; those that are gone cost NEVER."""

    def __init__(self, palette: Palette) -> None:
        self.entries = np.arange(len(palette))
        self.left = len(palette)
        self.colours = palette.colours.copy()
        self.counts = palette.counts.copy()
        self.keys = keys(self.colours)
        self.costs = np.stack([self._costs_of(i) for i in range(len(palette))])
        self.least = self.costs.min(1)

    def cheapest(self) -> int:
        """Return the cost of the next merge, or NEVER if there is none."""
        return int(self.least.min())

    def merge(self) -> tuple[int, int, Int64]:
        """Make the cheapest merge; return which entry stays, which goes, and the rounded mean."""
        stays, goes = self._choose()
        names = int(self.entries[stays]), int(self.entries[goes])
        counts = self.counts[[stays, goes]]
        total = counts.sum()
        colour: Int64 = (2 * counts @ self.colours[[stays, goes]] + total) // (2 * total)
        stale = (self.costs[stays] == self.least) | (self.costs[goes] == self.least)
        self.colours[stays] = colour
        self.keys[stays] = keys(colour[None])[0]
        self.counts[stays] = total
        self.counts[goes] = 0
        row = self._costs_of(stays)
        self.costs[stays], self.costs[:, stays] = row, row
        self.costs[goes], self.costs[:, goes] = NEVER, NEVER
        stale[[stays, goes]] = True
        np.minimum(self.least, row, out=self.least)
        rows = np.flatnonzero(stale)
        self.least[rows] = self.costs[rows].min(1)
        self.left -= 1
        if 2 * self.left <= len(self.counts):
            self._forget()
        return *names, colour

    def _choose(self) -> tuple[int, int]:
        """Return the pair that it joins; of several, the one with the smallest colours."""
        cost = self.least.min()
        rows = np.flatnonzero(self.least == cost)
        row = int(rows[self.keys[rows].argmin()])
        columns = np.flatnonzero(self.costs[row] == cost)
        return row, int(columns[self.keys[columns].argmin()])

    def _forget(self) -> None:
        """Drop what is gone, so that every step takes less time."""
        alive = np.flatnonzero(self.counts)
        self.entries, self.counts = self.entries[alive], self.counts[alive]
        self.colours, self.keys = self.colours[alive], self.keys[alive]
        self.costs, self.least = self.costs[np.ix_(alive, alive)], self.least[alive]

    def _costs_of(self, i: int) -> Int64:
        """Return Ward's cost [K] of merging entry i with each: what the squared error grows by."""
        squares = np.square(self.colours - self.colours[i]).sum(1)
        both = self.counts + self.counts[i]
        costs: Int64 = COST_UNIT * self.counts * self.counts[i] * squares // both
        costs[self.counts == 0] = NEVER
        costs[i] = NEVER
        return costs


def _seeds(points: Int64, counts: Int64, entries: int) -> Int64:
    """Choose centres by squared distance from those there are, some a round (k-means||)."""
    words = np.random.Philox(key=SEED)
    chosen = np.array([counts.argmax()])
    lengths, across = np.square(points).sum(1), _extended(points).T.copy()
    distance = np.full(len(points), NEVER)
    centres = chosen
    while len(centres) < entries:
        squares = lengths + (_factors(points[chosen]) @ across).min(0).astype(np.int64)
        distance = np.minimum(distance, squares)
        ends = np.cumsum(distance * counts)
        count = min(SEEDS_A_ROUND, entries - len(centres))
        drawn = (words.random_raw(count) % np.uint64(ends[-1])).astype(np.int64)
        chosen = np.unique(np.searchsorted(ends, drawn, side="right"))
        centres = np.concatenate([centres, chosen])
    return _sorted(points[centres])


def _nearest(points: Int64, centres: Int64) -> NDArray[np.intp]:
    """Return the nearest centre [N] of points [N, C]; ties go to the first."""
    nearest = np.empty(len(points), np.intp)
    extended, factors = _extended(points), _factors(centres).T.copy()
    for start in range(0, len(points), CHUNK):  # as much as stays in a cache
        part = slice(start, start + CHUNK)
        nearest[part] = (extended[part] @ factors).argmin(1)
    return nearest


def _extended(points: Int64) -> NDArray[np.float32]:
    return np.concatenate([points, np.ones((len(points), 1), np.int64)], 1).astype(np.float32)


def _factors(centres: Int64) -> NDArray[np.float32]:
    """Return [K, C + 1]: times extended points, squared distances less the points' lengths."""
    # Integers below 2**24 are exact in float32, in whatever order they are added.
    squares = np.square(centres).sum(1, keepdims=True)
    return np.concatenate([-2 * centres, squares], 1).astype(np.float32)


def _means(points: Int64, counts: Int64, index: NDArray[np.intp], entries: int) -> Int64:
    """Return the rounded means of the points of each centre that has any, sorted, different."""
    weight = np.bincount(index, counts, entries).astype(np.int64)
    # bincount adds in float64, which is exact below 2**53.
    sums = np.stack(
        [np.bincount(index, counts * channel, entries) for channel in points.T], 1
    ).astype(np.int64)
    used = weight > 0
    whole = weight[used, None]
    return _sorted((2 * sums[used] + whole) // (2 * whole))


def _sorted(colours: Int64) -> Int64:
    _, first = np.unique(keys(colours), return_index=True)
    return colours[first]
