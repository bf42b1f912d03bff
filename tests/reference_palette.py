"""A reader of the palette family in plain Python: the second opinion on formats/families.md, 5.

It shares nothing with the package but the stated format, and is slow. Names are the page's.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations, pairwise
from typing import NamedTuple

from tests.reference_rans import ReferenceDecoder

Colour = tuple[int, ...]
Palette = list[Colour]
Map = list[list[int]]
"""Entries, addressed by row, then column."""

LESSON = 64


# What is coded as rows of weights


def frequencies(weights: Sequence[int]) -> list[int]:
    """Return the model of a row of weights, entropy.md: sum 2^24, no zeros."""
    entries, total = len(weights), sum(weights)
    starts = accumulate(weights, initial=0)
    ends = [start * (2**24 - entries) // total + k for k, start in enumerate(starts)]
    return [after - before for before, after in pairwise(ends)]


def pop_weighted(decoder: ReferenceDecoder, weights: Sequence[int]) -> int:
    return decoder.pop(frequencies(weights)) if len(weights) > 1 else 0


def entries_at(point: int, groups: int) -> int:
    """Return E(p), the most entries that all palettes together have."""
    return groups + point + (255 * groups - 255) * point**2 // 255**2


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
    weights: list[int]


class Contexts:
    """Rows of counts for one map, and the exponents; both learn."""

    def __init__(self, model: IndexModel, palettes: Sequence[Palette]) -> None:
        *earlier, palette = palettes
        entries = len(palette)
        self.model = model
        self.lessons = 0
        self.near = [[model.nearness(a, b) for b in palette] for a in palette] + [[1] * entries]
        self.learnt = [[self.flat(0, entries)]]
        self.learnt += [[self.scaled(row) for row in self.near] for _ in range(4)]
        self.exponents = list(model.exponents[:5])
        if earlier:
            self.learnt.append([self.flat(2, entries) for _ in range(len(model.activity) + 1)])
            self.exponents.append(model.exponents[6])
        for other in earlier:
            if len(other) > 1:
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
            others: The class of activity if g > 0, then entries of earlier groups that have
                more than one.
        """
        keys = (0, *neighbours, *others)
        rows = [context[key] for context, key in zip(self.learnt, keys, strict=True)]
        rows += [self.near[neighbour] for neighbour in neighbours[:2]]
        logarithms = [[self.model.logarithm(n) for n in row] for row in rows]
        s = [
            sum(e * value for e, value in zip(self.exponents, column, strict=True)) >> 16
            for column in zip(*logarithms, strict=True)
        ]
        floor = max(s) - 1280
        return View(rows, logarithms, [self.model.power(max(value - floor, 0)) for value in s])

    def learn(self, lesson: Sequence[tuple[View, int]]) -> None:
        """Learn from all positions of a lesson, each with the value that it turned out to have."""
        a, b, c = self.model.rates
        rate = max(a - (a - b) * self.lessons // max(c, 1), b)
        m = len(lesson)
        for k, e in enumerate(self.exponents):
            slope = sum(slope_of(view.logarithms[k], view.weights, v) for view, v in lesson)
            e += (slope * rate * min(m, 32) // m) >> 10
            self.exponents[k] = min(max(e, -(2**18)), 2**18)
        for view, value in lesson:
            for row in view.rows[:-2]:
                row[value] += 256
        self.lessons += 1


def slope_of(logarithms: Sequence[int], weights: Sequence[int], value: int) -> int:
    mean = 16 * sum(w * x for w, x in zip(weights, logarithms, strict=True)) // sum(weights)
    return 16 * logarithms[value] - mean


def lessons(rows: int, columns: int) -> Iterator[list[tuple[int, int]]]:
    """Yield the positions (x, y) of each lesson, in the order of the stream."""
    lesson: list[tuple[int, int]] = []
    for t in range(columns + 2 * rows - 2):
        lesson += [(t - 2 * y, y) for y in range(rows) if 0 <= t - 2 * y < columns]
        if len(lesson) >= LESSON:
            yield lesson
            lesson = []
    if lesson:
        yield lesson


class MapReader:
    """Index maps of [rows, columns], one group after another."""

    def __init__(
        self, payload: bytes, palettes: Sequence[Palette], shape: tuple[int, int], model: IndexModel
    ) -> None:
        self.decoder = ReferenceDecoder(payload)
        self.palettes = palettes
        self.rows, self.columns = shape
        self.model = model
        self.maps: list[Map] = []

    def read(self) -> list[Map]:
        while len(self.maps) < len(self.palettes):
            self.maps.append(self.read_map())
        return self.maps

    def read_map(self) -> Map:
        group = len(self.maps)
        entries = len(self.palettes[group])
        index = [[0] * self.columns for _ in range(self.rows)]
        if entries == 1:
            return index
        contexts = Contexts(self.model, self.palettes[: group + 1])
        for lesson in lessons(self.rows, self.columns):
            seen = []
            for x, y in lesson:
                view = contexts.view(self.neighbours(index, x, y, entries), self.others(x, y))
                index[y][x] = pop_weighted(self.decoder, view.weights)
                seen.append((view, index[y][x]))
            contexts.learn(seen)
        return index

    def neighbours(self, index: Map, x: int, y: int, beyond: int) -> list[int]:
        places = ((x - 1, y), (x, y - 1), (x - 1, y - 1), (x + 1, y - 1))
        return [index[j][i] if self.holds(i, j) else beyond for i, j in places]

    def others(self, x: int, y: int) -> list[int]:
        if not self.maps:
            return []
        activity = self.activity(x, y)
        entries = [
            index[y][x]
            for index, palette in zip(self.maps, self.palettes, strict=False)
            if len(palette) > 1
        ]
        return [sum(activity >= bound for bound in self.model.activity), *entries]

    def activity(self, x: int, y: int) -> int:
        around = [(x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)]
        return sum(
            distance(palette[index[y][x]], palette[index[j][i]])
            for index, palette in zip(self.maps, self.palettes, strict=False)
            for i, j in around
            if self.holds(i, j)
        )

    def holds(self, x: int, y: int) -> bool:
        return 0 <= x < self.columns and 0 <= y < self.rows


# The chain


class Entry(NamedTuple):
    """An entry of a link; the smallest one is the first in the order of colours."""

    colour: Colour
    positions: int
    """n, how many positions of the map name it."""
    origins: tuple[int, ...]
    """Entries of the first link that were merged into it."""


Link = list[list[Entry]]


def merge_cost(a: Entry, b: Entry, weight: int) -> int:
    n = a.positions + b.positions
    d2 = squared_distance(a.colour, b.colour)
    return 16 * a.positions * b.positions * d2 // n * weight


def merged(a: Entry, b: Entry) -> Entry:
    n = a.positions + b.positions
    colour = tuple(
        (2 * (a.positions * u + b.positions * v) + n) // (2 * n)
        for u, v in zip(a.colour, b.colour, strict=True)
    )
    return Entry(colour, n, a.origins + b.origins)


def cheapest(group: Sequence[Entry], weight: int) -> tuple[int, int, int] | None:
    """Return cost and entries of a group's next merge."""
    pairs = combinations(range(len(group)), 2)
    return min(((merge_cost(group[i], group[j], weight), i, j) for i, j in pairs), default=None)


def links(
    palettes: Sequence[Palette], counts: Sequence[Sequence[int]], weights: Sequence[int]
) -> Iterator[Link]:
    """Yield all links from some palettes on; counts are the n of their entries."""
    link = [
        sorted(Entry(colour, n, (k,)) for k, (colour, n) in enumerate(zip(*group, strict=True)))
        for group in zip(palettes, counts, strict=True)
    ]
    yield link
    merges = [cheapest(group, weight) for group, weight in zip(link, weights, strict=True)]
    while possible := [(merge[0], g, *merge[1:]) for g, merge in enumerate(merges) if merge]:
        _, g, i, j = min(possible)
        rest = [entry for k, entry in enumerate(link[g]) if k not in (i, j)]
        group = sorted([*rest, merged(link[g][i], link[g][j])])
        link = [*link[:g], group, *link[g + 1 :]]
        merges[g] = cheapest(group, weights[g])
        yield link


def followed(index: Map, group: Sequence[Entry]) -> Map:
    """Let each index of the first link's map follow its entry."""
    now = {origin: k for k, entry in enumerate(group) for origin in entry.origins}
    return [[now[entry] for entry in row] for row in index]


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
