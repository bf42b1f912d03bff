"""What an anchor is made of: a format with its options and a scale of settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from cdcodec.codec import Pixels
from cdcodec.evaluation.contender import Compressed, Restored


class Coder(ABC):
    """A format, and what writes and reads it.

    Subclasses are frozen dataclasses of strings: a field is an option and its default.

    Attributes:
        options: What each option may be.
        suffix: Of its files, with the dot.
        scale: Settings, from the one with the smallest file to the one with the largest.
    """

    options: ClassVar[Mapping[str, Sequence[str]]]
    suffix: ClassVar[str]
    scale: ClassVar[Sequence[float]]

    @abstractmethod
    def version(self) -> str:
        """Name the program or library, the same in every run.

        Raises:
            Unavailable: If it is missing.
        """

    @abstractmethod
    def encode(self, pixels: Pixels, setting: float) -> Compressed:
        """Compress [H, W, 3] with a setting of the scale.

        Raises:
            InputError: If the program fails.
        """

    @abstractmethod
    def decode(self, data: bytes) -> Restored:
        """Decode a file that encode made.

        Raises:
            InputError: If the program fails.
        """


def spread(first: float, last: float, count: int) -> tuple[float, ...]:
    """Return `count` numbers with equal ratios, to four digits, as a setting is written."""
    ratio = (last / first) ** (1 / (count - 1))
    return tuple(float(f"{first * ratio**index:.4g}") for index in range(count))
