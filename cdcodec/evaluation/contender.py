"""What is measured: anything that turns a picture into a file of a certain size, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cdcodec.codec import Pixels
from cdcodec.errors import InputError, OutOfReach

__all__ = ["Compressed", "Contender", "OutOfReach", "Restored", "Unavailable", "label"]


class Unavailable(InputError):
    """A codec can't run here: its program or library is missing."""


@dataclass(frozen=True)
class Compressed:
    """A file and how it came about.

    Attributes:
        data: The whole file.
        setting: What the search for the target chose, such as "quality=12".
        seconds: Wall time per stage. The last trial of a search alone counts where each trial
            is a whole encode, so that codecs with and without rate control compare.
        peak_bytes: Memory of a child process that did the work; None if this process did.
    """

    data: bytes
    setting: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Restored:
    """A decoded picture [H, W, 3] and how it came about; see Compressed."""

    pixels: Pixels
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_bytes: int | None = None


def label(name: str, options: Mapping[str, str]) -> str:
    """Return what tables and plots call a codec: its name, with the options that were given."""
    return ":".join(filter(None, [name, ",".join(map("=".join, options.items()))]))


class Contender(Protocol):
    """A codec under test.

    Attributes:
        label: As tables and plots name it: its name, with the options that were given.
        version: Of programs, libraries and weights: a row measured with another one is stale.
        suffix: Of its files, with the dot.
        takes_steps: Whether one file is decoded with several numbers of steps.
        steps: Those numbers, if the specification names them; empty leaves them to the plan.
    """

    label: str
    version: str
    suffix: str
    takes_steps: bool
    steps: tuple[int, ...]

    def check_steps(self, steps: Sequence[int]) -> None:
        """Check that decode takes these numbers of steps, if it takes any.

        Raises:
            InputError: If it doesn't take one of them.
        """

    def encode(self, pixels: Pixels, bpp: float) -> Compressed:
        """Compress [H, W, 3] uint8 to the largest file of at most `bpp` bits per pixel.

        Raises:
            OutOfReach: If even its smallest file is larger; the message says how large.
        """

    def decode(self, data: bytes, steps: int | None) -> Restored:
        """Decode a file that encode made; steps is None unless takes_steps."""
