"""Every error that cdcodec raises on purpose.

The tree, with the exit code that the command line gives for each::

    CdcError                1
    ├── InputError          3   an image or an argument that can't be used
    │   ├── OutOfReach          a target that no file of this image can meet
    │   └── OptionError     2   an option that the model or its decoder doesn't take
    ├── BitstreamError      4   a compressed file that is damaged, or isn't one
    ├── UnsupportedError    5   a sound file that asks for what this version can't do
    ├── WeightsError        6   weights that are unknown, missing or don't match
    └── DesyncError         7   a stream that decodes, but not to what was written

Exit codes 0 and 2 mean success and wrong usage. Any other exception that leaves the package is a
bug of ours.
"""

from __future__ import annotations

from typing import ClassVar


def extra_hint(extra: str) -> str:
    """Return the hint at how to install an extra of which a package is missing."""
    return f"in a checkout of cdcodec: pip install '.[{extra}]'"


class CdcError(Exception):
    """Base of every error that cdcodec raises on purpose.

    Attributes:
        message: One line, in lower case and without a full stop.
        hint: What the user can do about it, or None.
        exit_code: Exit code of the command line for this class of error.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        # The default drops the hint when an error comes back from a worker process.
        return type(self), (self.message,), {"hint": self.hint}


class InputError(CdcError):
    """An image or an argument can't be used."""

    exit_code = 3


class OutOfReach(InputError):
    """A target is below the smallest file that can be made of an image."""


class OptionError(InputError):
    """An option, or a value of an option, that a model or its decoder doesn't take: wrong usage."""

    exit_code = 2


class BitstreamError(CdcError):
    """A compressed file is damaged, or isn't a compressed file at all."""

    exit_code = 4


class UnsupportedError(CdcError):
    """A sound file asks for something that this version can't do."""

    exit_code = 5


class WeightsError(CdcError):
    """Weights are unknown, missing, or don't match what a file or a registry says."""

    exit_code = 6


class DesyncError(CdcError):
    """A stream decodes, but not to the symbols that were written."""

    exit_code = 7
