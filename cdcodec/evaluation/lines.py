"""JSON Lines that only grow, and that a killed run or an older version leaves readable."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def read(path: Path) -> list[Any]:
    """Return what the lines of a file say, without those that aren't whole."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="ascii", errors="replace").split("\n"):
        with contextlib.suppress(ValueError):  # a killed run leaves half a line
            found.append(json.loads(line))
    return found


@contextlib.contextmanager
def appending(path: Path) -> Iterator[Callable[[Any], None]]:
    """Give a function that puts a line at the end of a file, and has it there when it returns."""
    half = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="ascii") as file:
        if half:
            file.write("\n")

        def append(value: Any) -> None:
            # In ASCII: names may hold whatever a file system allows, line separators too.
            file.write(json.dumps(value, allow_nan=False) + "\n")
            file.flush()

        yield append
