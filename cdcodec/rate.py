"""Rate control: the rate point whose file comes closest to a target without exceeding it."""

from __future__ import annotations

import math
from collections.abc import Callable

TYPICAL_SLOPE = math.log(20)
"""ln(largest / smallest file) over all rate points of a model; only a first guess."""

CLOSE_ENOUGH = 0.99
"""A file this near to the target, and not above it, ends the search."""


def search(measure: Callable[[int], int], points: int, target_bytes: int) -> int:
    """Find the rate point with the largest file of at most target_bytes.

    ln(bytes) is nearly linear in the point, so a bracketed secant search on it needs three to
    five measurements.

    Args:
        measure: Bytes of the file at a rate point, nearly increasing in the point.
        points: Rate points there are.
        target_bytes: Not to be exceeded.

    Returns:
        The point; point 0 if even its file is too large (the caller decides what that means).
    """
    log_target = math.log(target_bytes)
    known: dict[int, float] = {}
    low, high = (
        -1,
        points,
    )  # the file fits at `low` and doesn't at `high`; both are outside at first
    point = points // 2
    slope = TYPICAL_SLOPE / max(1, points - 1)
    while high - low > 1:
        size = measure(point)
        known[point] = math.log(size)
        if size > target_bytes:
            high = point
        else:
            low = point
            if size >= CLOSE_ENOUGH * target_bytes:
                break
        if low in known and high in known and known[high] > known[low]:
            slope = (known[high] - known[low]) / (high - low)
        # Aim a little below the target: landing above it costs another measurement.
        guess = point + (log_target - known[point] + math.log(CLOSE_ENOUGH) / 2) / slope
        point = min(max(round(guess), low + 1), high - 1)
    return max(low, 0)
