"""Anchors: the codecs a user would pick instead, each at the setting that meets a target."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence

from cdcodec import rate
from cdcodec.codec import Pixels
from cdcodec.errors import InputError
from cdcodec.evaluation.anchors.coder import Coder
from cdcodec.evaluation.anchors.programs import Hevc, JpegXl, Vvc
from cdcodec.evaluation.anchors.stills import Avif, Jpeg, Jpeg2000, Webp
from cdcodec.evaluation.contender import Compressed, OutOfReach, Restored, label

_CODERS: dict[str, type[Coder]] = {
    "jpeg": Jpeg,
    "webp": Webp,
    "avif": Avif,
    "jpeg2000": Jpeg2000,
    "jxl": JpegXl,
    "hevc": Hevc,
    "vvc": Vvc,
}

NAMES = tuple(_CODERS)
"""What create takes."""


class Anchor:
    """A codec with its options; see Contender."""

    takes_steps = False
    steps: tuple[int, ...] = ()

    def __init__(self, name: str, options: Mapping[str, str], coder: Coder) -> None:
        """Prepare a codec.

        Args:
            name: One of NAMES.
            options: Those that were given.
            coder: Made with them.

        Raises:
            Unavailable: If its program or library is missing.
        """
        self.name = name
        self.label = label(name, options)
        self.coder = coder
        self.suffix = coder.suffix
        self.version = coder.version()

    def check_steps(self, steps: Sequence[int]) -> None:
        """Let all pass: they are for codecs that have steps."""

    def encode(self, pixels: Pixels, bpp: float) -> Compressed:
        """Compress by the setting with the largest file that fits; see Contender."""
        height, width = pixels.shape[:2]
        target_bytes = int(bpp * height * width / 8)
        scale = self.coder.scale
        trials: dict[int, Compressed] = {}

        def measure(index: int) -> int:
            if index not in trials:
                trials[index] = self.coder.encode(pixels, scale[index])
            return len(trials[index].data)

        found = rate.search(measure, len(scale), target_bytes) if target_bytes else 0
        if not rate.CLOSE_ENOUGH * target_bytes <= measure(found) <= target_bytes:
            # Sizes aren't quite monotonic: what lies next to the find may fit better.
            for index in (found - 1, found + 1, found + 2):
                if 0 <= index < len(scale):
                    measure(index)
        fitting = [trial for trial in trials.values() if len(trial.data) <= target_bytes]
        if not fitting:
            smallest = min(len(trial.data) for trial in trials.values())
            raise OutOfReach(
                f"{self.label}'s smallest file for this picture has {smallest:,} bytes, "
                f"{8 * smallest / (height * width):.4f} bpp"
            )
        return max(fitting, key=lambda trial: len(trial.data))

    def decode(self, data: bytes, steps: int | None) -> Restored:
        """Decode a file; see Contender."""
        return self.coder.decode(data)


def create(name: str, options: Mapping[str, str]) -> Anchor:
    """Return a codec.

    Args:
        name: One of NAMES.
        options: Each with a value that the codec knows.

    Raises:
        InputError: If the name, an option or its value is unknown; Unavailable, a kind of it, if
            the codec's program or library is missing.
    """
    if name not in _CODERS:
        raise InputError(f"no codec is called {name}", hint=_nearest(name, NAMES))
    known = _CODERS[name].options
    for key, value in options.items():
        if key not in known:
            raise InputError(f"{name} has no option {key}", hint=_nearest(key, known))
        if value not in known[key]:
            values = ", ".join(known[key])
            raise InputError(f"{key} of {name} can't be {value}", hint=f"it is one of {values}")
    make: Callable[..., Coder] = _CODERS[name]
    return Anchor(name, options, make(**options))


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    if near:
        return f"did you mean {near[0]}?"
    return f"known are {', '.join(names)}" if names else "it has none"
