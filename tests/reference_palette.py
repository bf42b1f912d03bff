"""A reader of the palette family in plain Python: the second opinion on formats/families.md, 5.

It shares nothing with the package but the stated format, and is slow. Names are the page's.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate, combinations, pairwise
from typing import NamedTuple

from tests.reference_rans import ReferenceDecoder

Colour = tuple[int, ...]
Palette = list[Colour]
Map = list[list[int]]
"""Entries, addressed by row, then column."""

LESSON = 64
"""Positions of a lesson, for each group that has any."""


# What is coded as rows of weights


def frequencies(weights: Sequence[int]) -> list[int]:
    """Return the model of a row of weights, entropy.md: sum 2^24, no zeros."""
    entries, total = len(weights), sum(weights)
    starts = accumulate(weights, initial=0)
    ends = [start * (2**24 - entries) // total + k for k, start in enumerate(starts)]
    return [after - before for before, after in pairwise(ends)]


def pop_weighted(decoder: ReferenceDecoder, weights: Sequence[int]) -> int:
    return decoder.pop(frequencies(weights)) if len(weights) > 1 else 0


# The clut chunk


class ClutReader:
    """Palettes of C channels: ends first, then middles."""

    def __init__(self, payload: bytes, groups: int, channels: int) -> None:
        self.sizes = [byte + 1 for byte in payload[:groups]]
        self.channels = channels
        self.decoder = ReferenceDecoder(payload[groups:])

    def read(self) -> list[Palette]:
        return [self.palette(size) for size in self.sizes]

    def palette(self, size: int) -> Palette:
        known: dict[int, list[int]] = {entry: [] for entry in (0, size - 1)}
        for _ in range(self.channels):
            for colour in known.values():
                colour.append(pop_weighted(self.decoder, [1] * 256))
        while len(known) < size:
            known |= self.middles(known)
        return [tuple(known[entry]) for entry in range(size)]

    def middles(self, known: Mapping[int, list[int]]) -> dict[int, list[int]]:
        """Return one batch: the entries halfway between neighbours that are known."""
        gaps = [(a, b) for a, b in pairwise(sorted(known)) if b - a > 1]
        colours = []
        for a, b in gaps:
            weights = weights_between(known[a][0], known[b][0])
            colours.append([pop_weighted(self.decoder, weights)])
        for channel in range(1, self.channels):
            weights = weights_near([colour[channel] for colour in known.values()])
            for colour in colours:
                colour.append(pop_weighted(self.decoder, weights))
        return {(a + b) // 2: colour for (a, b), colour in zip(gaps, colours, strict=True)}


def weights_between(low: int, high: int) -> list[int]:
    weights = [(max(v - low + 1, 0) * max(high - v + 1, 0)) ** 2 for v in range(256)]
    return weights if any(weights) else [1] * 256


def weights_near(values: Sequence[int]) -> list[int]:
    def weight(v: int) -> int:
        near = sum(2**24 * 8**4 // (8**2 + (v - u) ** 2) ** 2 for u in values)
        return 2**13 * len(values) + near

    return [weight(v) for v in range(256)]


# Index maps


@dataclass(frozen=True)
class IndexModel:
    """What a weight file says on index maps, as the arrays `exact.index_…`."""

    log: Sequence[int]
    exp: Sequence[int]
    kernel: Sequence[int]
    activity: Sequence[int]
    priors: Sequence[int]
    exponents: Sequence[int]
    rates: Sequence[int]

    def logarithm(self, n: int) -> int:
        """Return L(n) in 1/64 bits."""
        e = n.bit_length() - 1
        return 64 * e + self.log[(n << 6 >> e) % 64]

    def power(self, s: int) -> int:
        """Return P(s), s in 0..1280."""
        return self.exp[s % 64] >> (20 - s // 64)

    def nearness(self, a: Colour, b: Colour) -> int:
        return self.kernel[min(distance(a, b), len(self.kernel) - 1)]

    def digest(self) -> bytes:
        """Return the digest that enters the model id."""
        arrays = (self.log, self.exp, self.kernel, self.activity)
        return sha256(*map(counted, (*arrays, self.priors, self.exponents, self.rates)))


def distance(a: Colour, b: Colour) -> int:
    return math.isqrt(squared_distance(a, b))


def squared_distance(a: Colour, b: Colour) -> int:
    return sum((u - v) ** 2 for u, v in zip(a, b, strict=True))


class View(NamedTuple):
    """What the contexts say at a position."""

    rows: list[list[int]]
    """Counts, those of colours last."""
    logarithms: list[list[int]]
    """Of the counts, with zeros for entries that the group doesn't have."""
    weights: list[int]

    def q(self) -> list[int]:
        """The weights in parts of 4096."""
        total = sum(self.weights)
        return [4096 * weight // total for weight in self.weights]


class Contexts:
    """Rows of counts for one map, and the exponents; both learn."""

    def __init__(self, model: IndexModel, palettes: Sequence[Palette], width: int) -> None:
        """Start with what is known before the first position.

        Args:
            model: What the weight file says.
            palettes: Those of the groups before, then the map's own.
            width: Number of weights in a row.
        """
        *earlier, palette = palettes
        entries = len(palette)
        self.model = model
        self.absent = [0] * (width - entries)
        self.lessons = 0
        self.near = [[model.nearness(a, b) for b in palette] for a in palette] + [[1] * entries]
        self.learnt = [[self.flat(0, entries)]]
        self.learnt += [[self.scaled(row) for row in self.near] for _ in range(4)]
        self.exponents = list(model.exponents[:5])
        if earlier:
            self.learnt.append([self.flat(2, entries) for _ in range(len(model.activity) + 1)])
            self.exponents.append(model.exponents[6])
        for other in earlier:
            self.learnt.append([self.flat(2, entries) for _ in other])
            self.exponents.append(model.exponents[7])
        self.exponents += [model.exponents[5]] * 2

    def flat(self, prior: int, entries: int) -> list[int]:
        return [max(self.model.priors[prior] // entries, 1)] * entries

    def scaled(self, row: Sequence[int]) -> list[int]:
        total = sum(row)
        return [max(near * self.model.priors[1] // total, 1) for near in row]

    def view(self, neighbours: Sequence[int], others: Sequence[int]) -> View:
        """Return what a position is coded with.

        Args:
            neighbours: Entries left, above, above left and above right.
            others: If g > 0, the class of activity, then entries of groups before.
        """
        keys = (0, *neighbours, *others)
        rows = [context[key] for context, key in zip(self.learnt, keys, strict=True)]
        rows += [self.near[neighbour] for neighbour in neighbours[:2]]
        logarithms = [[self.model.logarithm(n) for n in row] for row in rows]
        s = [
            sum((e >> 7) * value for e, value in zip(self.exponents, column, strict=True)) >> 9
            for column in zip(*logarithms, strict=True)
        ]
        floor = max(s) - 1280
        weights = [self.model.power(max(value - floor, 0)) for value in s]
        weights += [self.model.power(0) for _ in self.absent]
        return View(rows, [row + self.absent for row in logarithms], weights)

    def learn(self, lesson: Sequence[tuple[View, int]]) -> None:
        """Learn from the map's part of a lesson: what was said at each position, and its value."""
        a, b, c = self.model.rates
        rate = max(a - (a - b) * self.lessons // max(c, 1), b)
        m = max(len(lesson), 1)
        places = [(view.logarithms, view.q(), value) for view, value in lesson]
        for k, e in enumerate(self.exponents):
            slope = sum(slope_of(logarithms[k], q, v) for logarithms, q, v in places)
            e += (slope * rate * min(m, 32) // m) >> 10
            self.exponents[k] = min(max(e, -(2**16)), 2**16)
        for view, value in lesson:
            for row in view.rows[:-2]:
                row[value] += 256
        self.lessons += 1


def slope_of(logarithms: Sequence[int], q: Sequence[int], value: int) -> int:
    mean = 16 * sum(part * x for part, x in zip(q, logarithms, strict=True)) // sum(q)
    return 16 * logarithms[value] - mean


class Place(NamedTuple):
    """A position of a group's map."""

    group: int
    x: int
    y: int


def waves(rows: int, columns: int, groups: int) -> Iterator[list[Place]]:
    """Yield the places of each wave, in the order of the stream."""
    for t in range(columns + 2 * rows + 3 * groups - 5):
        places = (Place(g, t - 2 * y - 3 * g, y) for g in range(groups) for y in range(rows))
        yield [place for place in places if 0 <= place.x < columns]


def lessons(rows: int, columns: int, groups: int) -> Iterator[list[Place]]:
    """Yield the places of each lesson, in the order of the stream."""
    lesson: list[Place] = []
    for wave in waves(rows, columns, groups):
        lesson += wave
        if len(lesson) >= LESSON * groups:
            yield lesson
            lesson = []
    if lesson:
        yield lesson


class MapReader:
    """Index maps of [rows, columns], all groups in step."""

    def __init__(
        self, payload: bytes, palettes: Sequence[Palette], shape: tuple[int, int], model: IndexModel
    ) -> None:
        self.decoder = ReferenceDecoder(payload)
        self.model = model
        self.rows, self.columns = shape
        self.all_maps = [[[0] * self.columns for _ in range(self.rows)] for _ in palettes]
        coded = [g for g, palette in enumerate(palettes) if len(palette) > 1]
        self.palettes = [palettes[g] for g in coded]
        self.maps = [self.all_maps[g] for g in coded]

    def read(self) -> list[Map]:
        groups = len(self.palettes)
        if groups == 0:
            return self.all_maps
        width = max(map(len, self.palettes))
        contexts = [Contexts(self.model, self.palettes[: g + 1], width) for g in range(groups)]
        for lesson in lessons(self.rows, self.columns, groups):
            seen: list[list[tuple[View, int]]] = [[] for _ in range(groups)]
            for place in lesson:
                view = contexts[place.group].view(self.neighbours(place), self.others(place))
                seen[place.group].append((view, self.pop(place, view)))
            for context, places in zip(contexts, seen, strict=True):
                context.learn(places)
        return self.all_maps

    def pop(self, place: Place, view: View) -> int:
        g, x, y = place
        value = pop_weighted(self.decoder, view.weights)
        if value >= len(self.palettes[g]):
            raise ValueError("an entry that its palette doesn't have")
        self.maps[g][y][x] = value
        return value

    def neighbours(self, place: Place) -> list[int]:
        g, x, y = place
        index, beyond = self.maps[g], len(self.palettes[g])
        places = ((x - 1, y), (x, y - 1), (x - 1, y - 1), (x + 1, y - 1))
        return [index[j][i] if self.holds(i, j) else beyond for i, j in places]

    def others(self, place: Place) -> list[int]:
        g, x, y = place
        if g == 0:
            return []
        activity = self.activity(place)
        kind = sum(activity >= bound for bound in self.model.activity)
        return [kind, *(index[y][x] for index in self.maps[:g])]

    def activity(self, place: Place) -> int:
        g, x, y = place
        beside = [(x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)]
        return sum(
            distance(palette[index[y][x]], palette[index[j][i]])
            for index, palette in zip(self.maps[:g], self.palettes[:g], strict=True)
            for i, j in beside
            if self.holds(i, j)
        )

    def holds(self, x: int, y: int) -> bool:
        return 0 <= x < self.columns and 0 <= y < self.rows


# The chain


class Merge(NamedTuple):
    """Two entries of a group; the smallest merge is the one to be made."""

    cost: int
    i: int
    j: int


@dataclass(frozen=True)
class Group:
    """A palette in its order, the map that names its entries, and the group's weight."""

    palette: Palette
    index: Map
    weight: int

    @cached_property
    def counts(self) -> list[int]:
        """n of each entry."""
        counts = [0] * len(self.palette)
        for row in self.index:
            for entry in row:
                counts[entry] += 1
        return counts

    @cached_property
    def merge(self) -> Merge | None:
        """The next merge, if two entries are left."""
        pairs = combinations(range(len(self.palette)), 2)
        return min((Merge(self.cost(i, j), i, j) for i, j in pairs), default=None)

    def cost(self, i: int, j: int) -> int:
        n_i, n_j = self.counts[i], self.counts[j]
        d2 = squared_distance(self.palette[i], self.palette[j])
        return 16 * n_i * n_j * d2 // (n_i + n_j) * self.weight

    def stepped(self, left: int) -> Group:
        """Make one of the steps of the next merge that are left."""
        assert self.merge is not None
        _, i, j = self.merge
        a, b = (j, i) if self.counts[i] < self.counts[j] else (i, j)
        moving = self.moving(b, left)
        m, n = len(moving), self.counts[a]
        colours = list(self.palette)
        colours[a] = tuple(
            (2 * (n * u + m * v) + n + m) // (2 * (n + m))
            for u, v in zip(colours[a], colours[b], strict=True)
        )
        index = [list(row) for row in self.index]
        for x, y in moving:
            index[y][x] = a
        kept = [k for k in range(len(colours)) if left > 1 or k != b]
        order = sorted(kept, key=lambda k: colours[k])
        now = {k: place for place, k in enumerate(order)}
        palette = [colours[k] for k in order]
        return Group(palette, [[now[k] for k in row] for row in index], self.weight)

    def moving(self, b: int, left: int) -> list[tuple[int, int]]:
        """Return the positions (x, y) of entry b that the next step moves."""
        there = [(x, y) for y, row in enumerate(self.index) for x, k in enumerate(row) if k == b]
        if left == 1:
            return there
        n, members = len(there), set(there)
        kinds = {(x, y): sum(place in members for place in around(x, y)) for x, y in there}
        within = [sum(kind <= c for kind in kinds.values()) for c in range(9)]
        c = min(c for c in range(9) if within[c] * left >= n)
        if within[c] == n:
            c = max((lower for lower in range(c) if within[lower] < n), default=-1)
        return [place for place, kind in kinds.items() if kind <= c]


def around(x: int, y: int) -> list[tuple[int, int]]:
    """Return the eight positions around one, also those beyond the map."""
    return [(x + i, y + j) for j in (-1, 0, 1) for i in (-1, 0, 1) if (i, j) != (0, 0)]


# The ladder


def steps(k: int) -> int:
    """Return S(k)."""
    return 8 if k <= 3 else 5 if k <= 6 else 3 if k <= 12 else 2 if k <= 24 else 1


@cache
def steps_from(k: int) -> int:
    """Return T(k)."""
    return sum(steps(j) for j in range(2, k + 1))


def height_at(point: int, groups: int) -> int:
    """Return the height of a rate point."""
    return point + (groups * steps_from(256) - 255) * point**4 // 255**4


@dataclass(frozen=True)
class State:
    """All groups somewhere on the way down."""

    groups: list[Group]
    d: int

    @property
    def height(self) -> int:
        return sum(steps_from(len(group.palette)) for group in self.groups) - self.d

    def down(self) -> State:
        """Go one step down."""
        merges = [(group.merge.cost, g) for g, group in enumerate(self.groups) if group.merge]
        _, chosen = min(merges)
        groups = list(self.groups)
        of_merge = steps(len(groups[chosen].palette))
        left = max(of_merge - self.d, 1)
        groups[chosen] = groups[chosen].stepped(left)
        return State(groups, self.d + 1 if left > 1 else self.d + 1 - of_merge)

    def at(self, point: int) -> State:
        """Return the first state from here on that is a point's."""
        state, height = self, height_at(point, len(self.groups))
        while state.height > height:
            state = state.down()
        return state


def state_of(
    palettes: Sequence[Palette], maps: Sequence[Map], weights: Sequence[int], point: int
) -> State:
    """Return the state that a file of a point has; an encoder's start is one of the last point."""
    groups = [Group(*parts) for parts in zip(palettes, maps, weights, strict=True)]
    d = max(State(groups, 0).height - height_at(point, len(groups)), 0)
    if d > 7:
        raise ValueError("more entries than the point allows")
    return State(groups, d)


# Digests


def model_id(chain: Sequence[int], model: IndexModel, encoder: bytes) -> bytes:
    return sha256(bytes(chain), model.digest(), encoder)[:4]


def symbols_digest(palettes: Sequence[Palette], maps: Sequence[Map]) -> bytes:
    """Return the digest of all symbols of a file."""
    pairs = list(zip(palettes, maps, strict=True))
    arrays = [
        named(f"index_{g}", index) for g, (palette, index) in enumerate(pairs) if len(palette) > 1
    ]
    arrays += [named(f"palette_{g}", palette) for g, (palette, _) in enumerate(pairs)]
    return sha256(*arrays)


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def named(name: str, rows: Sequence[Sequence[int]]) -> bytes:
    return name.encode() + bytes(1) + b"".join(map(int32, rows))


def counted(values: Sequence[int]) -> bytes:
    return len(values).to_bytes(4, "little") + int32(values)


def int32(values: Sequence[int]) -> bytes:
    return b"".join(value.to_bytes(4, "little", signed=True) for value in values)
