"""A file before it is final: the rate point that fits a budget, and what goes beside latents."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from cdcodec import rate
from cdcodec.bitstream import container as box
from cdcodec.bitstream.container import Chunk, ChunkType, Container, Header
from cdcodec.codec import Latents, SideWalk, Walk
from cdcodec.entropy.coder import Writer

NOTHING: Latents = {}

DIFFERENCE = 4
"""Bytes by which descriptions of one image at two rate points may differ in length: a word of the
entropy coder. Those of cgdm-nano and cgdm-tiny differed by one on the few pictures measured."""


@dataclass(frozen=True)
class Draft:
    """A file at some rate point, and what it was made of.

    Attributes:
        payload: Of its latents chunk.
        latents: What the walk returned.
        told: What stands beside them, as far as it is known.
        bits: Information content per latent name.
    """

    point: int
    data: bytes
    payload: bytes
    latents: Latents
    told: Latents
    bits: Mapping[str, float]


class Quantiser(Protocol):
    """What a draft needs of a Codec."""

    @property
    def walk(self) -> Walk:
        """See Codec."""

    def quantise(self, analysis: object, point: int) -> Latents:
        """See Codec."""


class Drafter:
    """Writes an image's file at any rate point."""

    def __init__(
        self, quantiser: Quantiser, analysis: object, header: Header, extras: Sequence[Chunk]
    ) -> None:
        self.quantiser = quantiser
        self.analysis = analysis
        self.header = header
        self.extras = extras

    @property
    def points(self) -> int:
        """Rate points there are."""
        return self.quantiser.walk.rate_points

    @property
    def reach(self) -> int:
        """See rate.look_around: all points of small pictures, few points of large ones."""
        return max(8, 2**22 // (self.header.width * self.header.height))

    def write(self, point: int) -> Draft:
        """Write the file of a rate point; room is left for what isn't told yet."""
        writer = Writer()
        size = self.header.width, self.header.height
        quantised = self.quantiser.quantise(self.analysis, point)
        latents = self.quantiser.walk.code(writer, quantised, *size, point)
        payload = writer.finish()
        data = self._assemble(point, payload, latents)
        return Draft(point, data, payload, latents, NOTHING, writer.bits)

    def add(self, draft: Draft, told: Latents) -> Draft:
        """Write a draft's file again, now that this is known."""
        data = self._assemble(draft.point, draft.payload, {**draft.latents, **told})
        return replace(draft, data=data, told=told)

    def _assemble(self, point: int, payload: bytes, latents: Latents) -> bytes:
        walk = self.quantiser.walk
        side = walk.pack(latents) if isinstance(walk, SideWalk) else {}
        chunks = (
            Chunk(ChunkType.LATENTS, payload),
            *(Chunk(kind, content) for kind, content in side.items()),
            *self.extras,
        )
        return box.write(Container(replace(self.header, point=point), chunks))


class Trials:
    """Files that are written on the way to a budget.

    Attributes:
        sizes: Bytes of each, by rate point.
        draft: The best of them; see rate.best.
    """

    draft: Draft

    def __init__(self, write: Callable[[int], Draft], budget: int) -> None:
        """Prepare trials of what is written at a rate point, for a budget in bytes."""
        self.sizes: dict[int, int] = {}
        self._write = write
        self._budget = budget

    def measure(self, point: int) -> int:
        """Write the file of a rate point and return its bytes."""
        draft = self._write(point)
        self.sizes[point] = len(draft.data)
        if rate.best(self.sizes, self._budget) == point:
            self.draft = draft
        return len(draft.data)


class Fit:
    """The search for the largest file within a budget in bytes."""

    def __init__(
        self, drafter: Drafter, budget: int, finish: Callable[[Draft], Draft] | None = None
    ) -> None:
        """Search.

        Args:
            drafter: What writes the files.
            budget: Bytes, not to be exceeded.
            finish: Adds to a draft the description that can be made only after the latents. This
                takes long, so only drafts that may become the best are finished.
        """
        self._budget = budget
        points, reach = drafter.points, drafter.reach
        trials = Trials(drafter.write, budget)
        sizes = rate.search(trials.measure, points, budget, reach=reach)
        if len(trials.draft.data) > budget:  # an error will name the smallest file
            sizes = rate.look_around(trials.measure, points, budget, -1, sizes, reach=points)
        self._final = trials
        self._expected: dict[int, int] = {}
        if finish is None:
            return
        # A draft leaves room for the longest description. Others are shorter, all by about as much.
        self._final = Trials(lambda point: finish(drafter.write(point)), budget)
        point = trials.draft.point
        spare = sizes[point] - self._final.measure(point)
        sizes = rate.search(trials.measure, points, budget + spare, reach=reach, known=sizes)
        self._expected = {point: size - spare for point, size in sizes.items()}
        while len(self._final.sizes) < reach and (hopeful := self._hopeful()):
            self._final.measure(rate.best(hopeful, budget))

    @property
    def draft(self) -> Draft:
        """The largest file that fits or, if none does, the smallest."""
        return self._final.draft

    def larger(self) -> int | None:
        """Return the bytes of the smallest file above the budget; None if there is none."""
        sizes = self._final.sizes
        while True:
            point = rate.above(sizes, self._budget)
            hopeful = {
                other: size
                for other, size in self._unfinished().items()
                if size + DIFFERENCE > self._budget
                and (point is None or size - DIFFERENCE < sizes[point])
            }
            if not hopeful:
                return None if point is None else sizes[point]
            self._final.measure(min(hopeful, key=hopeful.__getitem__))

    def _unfinished(self) -> dict[int, int]:
        """Return the expected bytes at points that aren't finished."""
        return {
            point: size for point, size in self._expected.items() if point not in self._final.sizes
        }

    def _hopeful(self) -> dict[int, int]:
        """Return the expected bytes at unfinished points that may beat `draft`."""
        taken = len(self.draft.data)
        if taken > self._budget:
            low, high = -math.inf, taken
        else:
            low, high = taken, self._budget + 1
        return {
            point: size
            for point, size in self._unfinished().items()
            if size + DIFFERENCE > low and size - DIFFERENCE < high
        }
