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
            trials[index] = self.coder.encode(pixels, scale[index])
            return len(trials[index].data)

        sizes = rate.search(measure, len(scale), target_bytes, reach=2, enough=rate.CLOSE_ENOUGH)
        best = trials[rate.best(sizes, target_bytes)]
        if len(best.data) > target_bytes:
            smallest = len(best.data)
            raise OutOfReach(
                f"{self.label}'s smallest file for this picture has {smallest:,} bytes, "
                f"{8 * smallest / (height * width):.4f} bpp"
            )
        return best

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
