"""A file before it is final: the rate point that fits a budget, and what goes beside latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from cdcodec import rate
from cdcodec.bitstream import container as box
from cdcodec.bitstream.container import Chunk, ChunkType, Container, Header
from cdcodec.codec import Latents, SideWalk, Walk
from cdcodec.entropy.coder import Meter, Writer

NOTHING: Latents = {}


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

    def write(self, point: int, told: Latents = NOTHING) -> Draft:
        """Write the file of a rate point; room is left for what isn't told yet."""
        writer = Writer()
        size = self.header.width, self.header.height
        quantised = self.quantiser.quantise(self.analysis, point)
        latents = self.quantiser.walk.code(writer, quantised, *size, point)
        payload = writer.finish()
        data = self._assemble(point, payload, {**latents, **told})
        return Draft(point, data, payload, latents, told, writer.bits)

    def add(self, draft: Draft, told: Latents) -> Draft:
        """Write a draft's file again, now that this is known."""
        data = self._assemble(draft.point, draft.payload, {**draft.latents, **told})
        return replace(draft, data=data, told=told)

    def fit(self, budget: int, told: Latents = NOTHING) -> Draft:
        """Return the largest file within a budget in bytes.

        If even the smallest is too large, that is what comes back.
        """
        size = self.header.width, self.header.height

        def measure(point: int) -> int:
            meter = Meter()
            quantised = self.quantiser.quantise(self.analysis, point)
            latents = self.quantiser.walk.code(meter, quantised, *size, point)
            other_bytes = len(self._assemble(point, b"", {**latents, **told}))
            # The coder's state costs up to one 32-bit word beyond the information content.
            return other_bytes + -(-int(meter.total_bits) // 8) + 2

        points = self.quantiser.walk.rate_points
        draft = self.write(rate.search(measure, points, max(budget, 1)), told)
        while len(draft.data) > budget and draft.point > 0:  # the Meter was a little too hopeful
            draft = self.write(draft.point - 1, told)
        return draft

    def _assemble(self, point: int, payload: bytes, latents: Latents) -> bytes:
        walk = self.quantiser.walk
        side = walk.pack(latents) if isinstance(walk, SideWalk) else {}
        chunks = (
            Chunk(ChunkType.LATENTS, payload),
            *(Chunk(kind, content) for kind, content in side.items()),
            *self.extras,
        )
        return box.write(Container(replace(self.header, point=point), chunks))
