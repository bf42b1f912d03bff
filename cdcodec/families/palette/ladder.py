"""What an image's latents are at each rate point: links of its chain, and steps between them.

Where palettes are small, one entry more may be a quarter more bytes. There a merge is made in
several steps: positions of the entry that goes become the one that stays a few at a time, those
first that have fewest of their kind around them, as they cost most bits. All of it follows from
palettes, maps and rate point, so that a file can be taken on from wherever it is.

The paper has whole merges only; its figures are those of a picture's own rates.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdcodec.codec import IntArray
from cdcodec.families.palette.chain import (
    MAX_ENTRIES,
    Chain,
    Group,
    Int64,
    Palette,
    cheapest,
    in_order,
    mixed,
)

POINTS = 256

STAGES = ((10, 6), (20, 4), (36, 2))
"""With up to so many entries beyond one a group, the next merge is made in so many steps."""


class Rung(NamedTuple):
    """How far down the ladder a rate point is.

    Attributes:
        entries: That all palettes have together, at most.
        made: Steps of the next merge that are made already.
    """

    entries: int
    made: int


def steps_at(beyond: int) -> int:
    """Return how many steps a merge is made in, with so many entries beyond one a group."""
    return next((steps for most, steps in STAGES if beyond <= most), 1)


@cache
def rungs(groups: int) -> tuple[Rung, ...]:
    """Return the rungs of all rate points, rising.

    Twice the entries are nearly a constant number of bits more, so that points are the further
    apart the more entries there are.
    """
    stepped = STAGES[-1][0]
    low = [Rung(groups, 0)]
    for beyond in range(1, stepped + 1):
        low += [Rung(groups + beyond, made) for made in reversed(range(steps_at(beyond)))]
    rest = POINTS - len(low)
    first, last = groups + stepped, MAX_ENTRIES * groups
    surplus = last - first - rest
    return (*low, *(Rung(first + k + surplus * k**2 // rest**2, 0) for k in range(1, rest + 1)))


class _Step(NamedTuple):
    """One step down.

    Attributes:
        group: That it is made in; entries are named by their places there.
        stays: The entry that takes positions.
        goes: The one that they had.
        moved: Positions in raster order, int [n].
        colour: Of the entry that stays, from now on, int64 [C].
    """

    group: int
    stays: int
    goes: int
    moved: NDArray[np.intp]
    colour: Int64


class _State:
    """Palettes and maps on the way down; entries are in no order.

    Attributes:
        colours: int64 [K, C] of each group.
        maps: int32 [rows, columns] of each group.
        rung: Where it is.
    """

    def __init__(self, colours: list[Int64], maps: list[IntArray], rung: Rung) -> None:
        self.colours = colours
        self.maps = maps
        self.rung = rung

    @property
    def steps(self) -> int:
        """Steps of the next merge, made or not."""
        return steps_at(self.rung.entries - len(self.colours))

    def counted(self, g: int) -> Palette:
        """Return a group's palette, in its order here."""
        counts = np.bincount(self.maps[g].ravel(), minlength=len(self.colours[g]))
        return Palette(self.colours[g], counts.astype(np.int64))

    def take(self, step: _Step) -> None:
        """Take the next step."""
        g = step.group
        self.maps[g].flat[step.moved] = step.stays
        self.colours[g][step.stays] = step.colour
        entries, made = self.rung
        if made + 1 < self.steps:
            self.rung = Rung(entries, made + 1)
            return
        self.colours[g] = np.delete(self.colours[g], step.goes, 0)
        self.maps[g] -= self.maps[g] > step.goes
        self.rung = Rung(entries - 1, 0)


class Ladder:
    """An image's latents at every rate point, from some state down."""

    def __init__(
        self, start: Sequence[Palette], index: IntArray, weights: Sequence[int], made: int = 0
    ) -> None:
        """Find the chain; steps between its links are found when they are asked for.

        Args:
            start: The palettes, one a group.
            index: Maps of their entries, int32 [G, rows, columns].
            weights: What a squared error counts for, by group, 1..255.
            made: Steps of the next merge that are made already.

        Raises:
            InputError: If the maps are too large; see chain.check_size.
        """
        self._chain = Chain(start, weights)
        self._index = index
        self._weights = weights
        self._made = made
        self._steps: list[_Step] = []
        self._groups: list[Group | None] = [None] * len(start)  # after all of these steps

    def at(self, rung: Rung) -> tuple[list[Palette], IntArray]:
        """Return palettes and maps, int32 [G, rows, columns], of the first state at a rung."""
        groups = range(len(self._index))
        palettes, became = self._chain.at(max(rung.entries, len(groups) + STAGES[-1][0]))
        maps = [entry[group] for entry, group in zip(became, self._index, strict=True)]
        entries = sum(map(len, palettes))
        made = self._made if entries == self._chain.total else 0
        state = _State([palette.colours for palette in palettes], maps, Rung(entries, made))
        for taken in itertools.count():
            if state.rung.entries < rung.entries:
                break
            if state.rung.entries == rung.entries and state.rung.made >= rung.made:
                break
            if taken == len(self._steps) and not self._find_step(state):
                break
            state.take(self._steps[taken])
        ordered = [in_order(state.counted(g)) for g in groups]
        named = [place[each] for (_, place), each in zip(ordered, state.maps, strict=True)]
        return [palette for palette, _ in ordered], np.stack(named)

    def _find_step(self, state: _State) -> bool:
        """Find the step after the last one, given where that led; False if there is none."""
        groups = [group or Group(state.counted(g)) for g, group in enumerate(self._groups)]
        g = cheapest([group.cheapest() for group in groups], self._weights)
        if g is None:
            return False
        stays, goes = groups[g].pair()
        counts, colours = groups[g].counts, groups[g].colours
        if counts[stays] < counts[goes]:
            stays, goes = goes, stays
        moved = _thinnest(state.maps[g] == goes, state.steps - state.rung.made)
        colour = mixed(colours[[stays, goes]], np.array([counts[stays], len(moved)]))
        self._steps.append(_Step(g, stays, goes, moved, colour))
        self._groups = [*groups[:g], None, *groups[g + 1 :]]
        return True


def _thinnest(mask: NDArray[np.bool_], left: int) -> NDArray[np.intp]:
    """Return which positions of a mask go in the next of so many steps, in raster order.

    Positions are in classes by how many of the eight around them are in the mask. The lowest
    classes go, so many that they are the step's share or more; but never all before the last step.
    """
    positions = np.flatnonzero(mask)
    if left == 1:
        return positions
    padded = np.pad(mask.astype(np.int8), 1)
    above, here, below = padded[:-2], padded[1:-1], padded[2:]
    columns = above + here + below
    around = columns[:, :-2] + columns[:, 1:-1] + columns[:, 2:] - 1
    thickness = around[mask]
    up_to = np.bincount(thickness, minlength=9).cumsum()
    limit = int(np.argmax(up_to * left >= len(positions)))
    while limit >= 0 and up_to[limit] == len(positions):
        limit -= 1
    thinnest: NDArray[np.intp] = positions[thickness <= limit]
    return thinnest
