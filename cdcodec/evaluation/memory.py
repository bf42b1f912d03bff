"""How much memory a piece of work takes at most."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Peak:
    """Resident memory at most, beyond what the process had before; None if unknown."""

    bytes: int | None = None


@contextlib.contextmanager
def peak() -> Iterator[Peak]:
    """Measure the work of the context.

    What was loaded before doesn't count, such as libraries and weights. Only Linux tells; elsewhere
    it stays unknown.
    """
    found = Peak()
    before = None
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the high-water mark
        before = _status("VmRSS")
    yield found
    if before is not None:
        found.bytes = max(0, _status("VmHWM") - before)


def _status(field: str) -> int:
    """Return a size in bytes that Linux tells of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
