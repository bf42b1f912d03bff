"""How much memory a piece of work takes at most."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Peak:
    """Resident memory of this process at most, libraries and weights included; None if unknown."""

    bytes: int | None = None


@contextlib.contextmanager
def peak() -> Iterator[Peak]:
    """Measure the work of the context.

    Only Linux can start anew; elsewhere it is the most since the process began, and on Windows it
    is unknown.
    """
    found = Peak()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the high-water mark
    yield found
    with contextlib.suppress(OSError, ImportError):
        found.bytes = _high_water_mark()


def _high_water_mark() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
