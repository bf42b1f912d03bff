"""The contract of a family: what a codec with its weights loaded can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cdcodec.bitstream.container import ChunkType
from cdcodec.entropy.coder import Coder

IntArray = NDArray[np.int32]
Pixels = NDArray[np.uint8]
Latents = Mapping[str, IntArray]
Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all) while a picture is decoded."""


@dataclass(frozen=True)
class DecoderInfo:
    """One way of turning latents into pixels, as `--decoder` names it.

    Attributes:
        summary: One line for people.
        steps: Steps when neither the user nor the file says.
        stochasticity: gamma when the user doesn't say; None if there is no noise to scale.
        guidance: lambda_s when the user doesn't say; None if there is no guidance.
        min_steps: Fewest steps it takes; max_steps: most.
    """

    summary: str
    steps: int
    stochasticity: float | None = None
    guidance: float | None = None
    min_steps: int = 1
    max_steps: int = 1000

    @property
    def range(self) -> str:
        """Numbers of steps that it takes, in words."""
        if self.min_steps < self.max_steps:
            return f"{self.min_steps} to {self.max_steps} steps"
        return f"{self.min_steps} step" + ("" if self.min_steps == 1 else "s")


@dataclass(frozen=True)
class Decoding:
    """The reader's choices. They never change the bits, only what is made of them.

    Attributes:
        steps: Network evaluations; None takes the file's default.
        decoder: A key of Codec.decoders; None takes the first.
        seed: Seed of the noise.
        stochasticity: gamma, the standard deviation of the start x_N; None takes the decoder's.
        guidance: lambda_s, how far the hint leads; None takes the decoder's.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        tile: Side of the squares, in pixels, in which large pictures are decoded.
    """

    steps: int | None = None
    decoder: str | None = None
    seed: int = 0
    stochasticity: float | None = None
    guidance: float | None = None
    device: str = "auto"
    tile: int = 1024


class Walk(Protocol):
    """The entropy-coded half of a codec: integers only, no torch, the same on every machine."""

    @property
    def model_id(self) -> bytes:
        """What a file carries to name the weights that can read it."""

    @property
    def rate_points(self) -> int:
        """Rate points a file can name, 1..256."""

    def code(
        self, coder: Coder, latents: Latents | None, width: int, height: int, point: int
    ) -> Latents:
        """Walk once over everything that is entropy coded.

        Args:
            coder: A Writer, Reader or Meter.
            latents: What Codec.quantise returned. When reading: what SideWalk.unpack returned, or
                None where there is no side information.
            width: Of the image, in pixels.
            height: Of the image, in pixels.
            point: Rate point, 0..rate_points-1.

        Returns:
            The latents as the reader will have them.
        """


@runtime_checkable
class SideWalk(Walk, Protocol):
    """The walk of a family whose files have side information in chunks of its own.

    Those chunks are unpacked first: how many symbols the walk reads may depend on them.
    """

    def pack(self, latents: Latents) -> Mapping[ChunkType, bytes]:
        """Return the payloads of those chunks; of what isn't among the latents, the longest."""

    def unpack(self, chunks: Mapping[ChunkType, bytes]) -> Latents:
        """Return the latents that pack made chunks of.

        Raises:
            BitstreamError: If they aren't such chunks.
        """


class Shrinker(Protocol):
    """A file's latents at its own rate point and those below."""

    def latents(self, point: int) -> Latents:
        """Return what Codec.quantise would have made of the image at a rate point, bit for bit.

        At a higher point than the file's, that is what the file has.
        """

    def estimate(self, point: int) -> float:
        """Return about how large a file is at a rate point, in any unit and without coding it.

        It nearly rises with the point, as sizes do.
        """


@runtime_checkable
class ScalableWalk(Walk, Protocol):
    """The walk of a family whose files hold what is needed to make smaller ones."""

    def shrinker(self, latents: Latents, point: int) -> Shrinker:
        """Return what becomes of a file's latents.

        Args:
            latents: What `code` returned, and what `unpack` did.
            point: The file's rate point.
        """


class Codec(Protocol):
    """A family with its weights loaded."""

    @property
    def walk(self) -> Walk:
        """The entropy-coded half."""

    @property
    def decoders(self) -> Mapping[str, DecoderInfo]:
        """What `--decoder` may name; the first is the default."""

    @property
    def device(self) -> object:
        """Where the networks run; str() of it is a device's name."""

    def analyse(self, pixels: Pixels) -> object:
        """Run the analysis transform on pixels [H, W, 3], once an image, for quantise."""

    def quantise(self, analysis: object, point: int) -> Latents:
        """Return integer latents for the walk at a rate point."""

    def synthesise(
        self,
        latents: Latents,
        width: int,
        height: int,
        point: int,
        decoding: Decoding,
        progress: Progress | None = None,
    ) -> Pixels:
        """Decode what the walk returned to pixels [height, width, 3]; steps and decoder are set."""


@runtime_checkable
class Describing(Protocol):
    """A codec that, when all else of a file stands, tells the decoder more about the original."""

    def describe(
        self,
        pixels: Pixels,
        latents: Latents,
        point: int,
        tune: int,
        progress: Progress | None = None,
    ) -> Latents:
        """Return latents that go beside those of the walk.

        Args:
            pixels: The original [H, W, 3].
            latents: What the walk returned.
            point: Rate point.
            tune: Iterations to spend on this very image.
            progress: Called with (iterations done, iterations in all).
        """


@runtime_checkable
class Enhancing(Protocol):
    """A codec whose decoder can work on pictures that other codecs decoded."""

    @property
    def decoders(self) -> Mapping[str, DecoderInfo]:
        """See Codec."""

    @property
    def device(self) -> object:
        """See Codec."""

    def describe_picture(
        self, original: Pixels, decoded: Pixels, tune: int, progress: Progress | None = None
    ) -> bytes:
        """Return what to tell `enhance` about an original, a few bytes."""

    def enhance(
        self,
        decoded: Pixels,
        description: bytes,
        decoding: Decoding,
        progress: Progress | None = None,
    ) -> Pixels:
        """Return a more natural picture [H, W, 3]; without a description (b"") a likely one.

        Raises:
            BitstreamError: If the description isn't one.
        """
