"""What an image's latents are at each rate point: states on the way down its chain.

Where a palette is small, one entry more may be a quarter more bytes. There a merge is made in
several steps: positions of the entry that goes become the one that stays a few at a time, those
first that have fewest of their kind around them, as they cost most bits. All of it follows from
palettes, maps and rate point, so that a file can be taken on from wherever it is. (The paper has
whole merges only.)
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdcodec.codec import IntArray
from cdcodec.families.palette.chain import (
    MAX_ENTRIES,
    Change,
    Group,
    Palette,
    cheapest,
    check_size,
    in_order,
)

POINTS = 256

STEPS = ((3, 8), (6, 5), (12, 3), (24, 2))
"""A palette of up to so many entries loses one of them in so many steps, a larger one in one."""

MOST_STEPS = STEPS[0][1]


def steps_at(entries: int) -> int:
    """Return how many steps a palette of so many entries loses one in."""
    return next((steps for most, steps in STEPS if entries <= most), 1)


@cache
def steps_below(entries: int) -> int:
    """Return how many steps it is from a palette of so many entries to one of a single entry."""
    return sum(map(steps_at, range(2, entries + 1)))


@cache
def heights(groups: int) -> tuple[int, ...]:
    """Return how many steps above the lowest state each rate point is, with so many palettes.

    Twice the entries are nearly a constant number of bits more, so that points are the further
    apart the more entries there are.
    """
    last = POINTS - 1
    surplus = groups * steps_below(MAX_ENTRIES) - last
    return tuple(point + surplus * point**4 // last**4 for point in range(POINTS))


class _Step(NamedTuple):
    """One step down in a group. Its entries are named by their places at the start.

    Attributes:
        taken: Steps of all groups before it.
        change: What it does to two entries.
        moved: The positions that change their entry, in raster order; None if all do that had it.
    """

    taken: int
    change: Change
    moved: NDArray[np.intp] | None


class Ladder:
    """An image's latents from some state down; steps are found when they are asked for."""

    def __init__(
        self, start: Sequence[Palette], index: IntArray, weights: Sequence[int], made: int = 0
    ) -> None:
        """Begin with a state; no step is found yet.

        Args:
            start: Its palettes, one a group.
            index: Maps of their entries, int32 [G, rows, columns].
            weights: What a squared error counts for, by group, 1..255.
            made: Steps of merges that aren't complete.

        Raises:
            InputError: If the maps are too large; see chain.check_size.
        """
        for palette in start:
            check_size(int(palette.counts.sum()), palette.colours.shape[1])
        self._start = tuple(start)
        self._index = index
        self._weights = weights
        self._made = made
        self._height = sum(steps_below(len(palette)) for palette in start) - made
        self._steps: list[list[_Step]] = [[] for _ in start]
        # The state after all of these steps. An entry that has gone became another.
        self._taken = 0
        self._groups = [Group(palette) for palette in start]
        self._costs = [group.cheapest() for group in self._groups]
        self._became = [np.arange(len(palette)) for palette in start]
        self._maps = index.copy()

    def at(self, height: int) -> tuple[list[Palette], IntArray]:
        """Return the first state that is at most so many steps above the lowest.

        Returns:
            Palettes, and maps, int32 [G, rows, columns].
        """
        taken = max(self._height - height, 0)
        while self._taken < taken and self._find_step():
            pass
        palettes, maps = [], []
        for start, plane, steps in zip(self._start, self._index, self._steps, strict=True):
            own = bisect_left(steps, taken, key=lambda step: step.taken)
            palette, renamed = _after(start, plane, steps[:own])
            palettes.append(palette)
            maps.append(renamed)
        return palettes, np.stack(maps)

    def _find_step(self) -> bool:
        """Find the step after the last one; False if every group has one entry."""
        g = cheapest(self._costs, self._weights)
        if g is None:
            return False
        group, became = self._groups[g], self._became[g]
        steps = steps_at(group.left)
        left = steps - self._made
        pair = group.pair()
        moved = None
        if left > 1:
            _, goes = group.entries[list(pair)]
            moved = _thinnest(became[self._maps[g]] == goes, left)
        change = group.move(*pair, None if moved is None else len(moved))
        if moved is None:
            became[became == change.goes] = change.stays
            self._made -= steps
        else:
            self._maps[g].flat[moved] = change.stays
        self._made += 1
        self._steps[g].append(_Step(self._taken, change, moved))
        self._taken += 1
        self._costs[g] = group.cheapest()
        return True


def _after(start: Palette, plane: IntArray, steps: Sequence[_Step]) -> tuple[Palette, IntArray]:
    """Return what a group's palette and map are after its first steps."""
    if not steps:
        return start, plane
    colours, counts = start.colours.copy(), start.counts.copy()
    for step in steps:
        change = step.change
        colours[change.stays] = change.colour
        counts[change.stays], counts[change.goes] = change.counts
    plane = plane.copy()
    for step in steps:
        if step.moved is not None:
            plane.flat[step.moved] = step.change.stays
    became = list(range(len(start)))
    for step in reversed(steps):  # what an entry goes to may go itself, later
        if step.moved is None:
            became[step.change.goes] = became[step.change.stays]
    palette, place = in_order(Palette(colours, counts))
    return palette, place[became][plane]


def _thinnest(mask: NDArray[np.bool_], left: int) -> NDArray[np.intp]:
    """Return which positions of a mask go in the next of so many steps, 2 or more.

    Positions are in classes by how many of the eight around them are in the mask. The lowest
    classes go, so many that they are the step's share or more; but never all.
    """
    positions = np.flatnonzero(mask)
    padded = np.pad(mask.astype(np.int8), 1)
    columns = padded[:-2] + padded[1:-1] + padded[2:]
    around = columns[:, :-2] + columns[:, 1:-1] + columns[:, 2:] - 1
    thickness = around[mask]
    up_to = np.bincount(thickness, minlength=9).cumsum()
    limit = int(np.argmax(up_to * left >= len(positions)))
    while limit >= 0 and up_to[limit] == len(positions):
        limit -= 1
    thinnest: NDArray[np.intp] = positions[thickness <= limit]
    return thinnest
