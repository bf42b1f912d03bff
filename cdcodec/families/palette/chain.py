"""Content-adaptive palettes and the chain that merges them (paper 000, sec. 3.2.1, alg. 1, eq. 4).

Integers only, and no order of summation matters: the same latent gives the same palettes and
merges everywhere. Nor does a merge depend on how entries are numbered: ties go by colour. So a
file's palettes and maps are enough to go on from (ladder.py).

Deviations from the paper, with their reasons. Centroids start by a seeded k-means|| and move until
they rest or for a few rounds: alg. 1 starts at random points and moves once, which nobody else can
reproduce. Linkage, which the paper leaves open, is Ward's, weighted by counts. A latent's channels
are in groups, each with a palette of its own, and the cheapest merge of all groups is made: at 1/8
of an image's size, a single palette of 256 entries ends at 0.14 bits per pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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


def cheapest(costs: Sequence[int], weights: Sequence[int]) -> int | None:
    """Return the group whose next merge costs least, weighted; None if there is no merge."""
    weighted = [
        NEVER if cost == NEVER else cost * weight
        for cost, weight in zip(costs, weights, strict=True)
    ]
    g = weighted.index(min(weighted))
    return None if weighted[g] == NEVER else g


def in_order(palette: Palette) -> tuple[Palette, IntArray]:
    """Return the palette without what doesn't occur, sorted, and the place of each entry, int32."""
    alive = np.flatnonzero(palette.counts)
    order = alive[np.argsort(keys(palette.colours[alive]))]
    place = np.zeros(len(palette), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    return Palette(palette.colours[order], palette.counts[order]), place


class Change(NamedTuple):
    """Positions that two entries of a group exchange; entries are named by their places at first.

    Attributes:
        stays: The entry that takes positions.
        goes: The one that gives them.
        colour: Of the one that stays, from now on, int64 [C].
        counts: Positions of both, from now on.
    """

    stays: int
    goes: int
    colour: Int64
    counts: tuple[int, int]


class Group:
    """The entries of a group while they are merged; those that are gone cost NEVER.

    Attributes:
        entries: Which entry of the palette each is that may still be here, [K].
        left: How many are.
        colours: int64 [K, C], 0..255.
        counts: Positions of each, int64 [K]; 0 if it is gone.
        keys: Colours as numbers, see `keys`.
        costs: Of merging each two, int64 [K, K].
        least: Of each row, int64 [K].
    """

    def __init__(self, palette: Palette) -> None:
        self.entries = np.arange(len(palette))
        self.left = len(palette)
        self.colours = palette.colours.copy()
        self.counts = palette.counts.copy()
        self.keys = keys(self.colours)
        self.costs = self._all_costs()
        self.least = self.costs.min(1)

    def cheapest(self) -> int:
        """Return the cost of the next merge, or NEVER if there is none."""
        return int(self.least.min())

    def pair(self) -> tuple[int, int]:
        """Return the pair that the cheapest merge joins, by places here; that with fewer last.

        Of several pairs, it is that of the smallest colours; of two entries with as many positions,
        that of the larger colour is the last.
        """
        cost = self.least.min()
        rows = np.flatnonzero(self.least == cost)
        row = int(rows[self.keys[rows].argmin()])
        columns = np.flatnonzero(self.costs[row] == cost)
        column = int(columns[self.keys[columns].argmin()])
        return (column, row) if self.counts[row] < self.counts[column] else (row, column)

    def move(self, stays: int, goes: int, positions: int | None = None) -> Change:
        """Give positions of one entry of the cheapest pair to the other; None gives all of them."""
        if positions is None:
            positions = int(self.counts[goes])
        counts = int(self.counts[stays]) + positions, int(self.counts[goes]) - positions
        given = np.array([self.counts[stays], positions])
        colour = mixed(self.colours[[stays, goes]], given)
        change = Change(int(self.entries[stays]), int(self.entries[goes]), colour, counts)
        stale = (self.costs[stays] == self.least) | (self.costs[goes] == self.least)
        stale[[stays, goes]] = True
        self.colours[stays] = colour
        self.keys[stays] = keys(colour[None])[0]
        self.counts[stays], self.counts[goes] = counts
        for changed in (stays, goes):
            row = self._costs_of(changed) if self.counts[changed] else NEVER
            self.costs[changed], self.costs[:, changed] = row, row
            np.minimum(self.least, row, out=self.least)
        rows = np.flatnonzero(stale)
        self.least[rows] = self.costs[rows].min(1)
        self.left -= not counts[1]
        if 2 * self.left <= len(self.counts):
            self._forget()
        return change

    def _forget(self) -> None:
        """Drop what is gone, so that every step takes less time."""
        alive = np.flatnonzero(self.counts)
        self.entries, self.counts = self.entries[alive], self.counts[alive]
        self.colours, self.keys = self.colours[alive], self.keys[alive]
        self.costs, self.least = self.costs[np.ix_(alive, alive)], self.least[alive]

    def _all_costs(self) -> Int64:
        """Return Ward's costs [K, K] of merging each two: what the squared error grows by."""
        products = self.colours @ self.colours.T
        lengths = products.diagonal()
        squares = lengths + lengths[:, None] - 2 * products
        costs: Int64 = COST_UNIT * self.counts * self.counts[:, None] * squares
        costs //= self.counts + self.counts[:, None]
        np.fill_diagonal(costs, NEVER)
        return costs

    def _costs_of(self, i: int) -> Int64:
        """Return entry i's row of them, [K]."""
        squares = np.square(self.colours - self.colours[i]).sum(1)
        both = self.counts + self.counts[i]
        costs: Int64 = COST_UNIT * self.counts * self.counts[i] * squares // both
        costs[self.counts == 0] = NEVER
        costs[i] = NEVER
        return costs


def mixed(colours: Int64, counts: Int64) -> Int64:
    """Return the rounded mean [C] of colours [K, C] that occur so often, [K]."""
    total = counts.sum()
    mean: Int64 = (2 * counts @ colours + total) // (2 * total)
    return mean


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
