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

    ln(bytes) is nearly linear in the point, so the Illinois variant of regula falsi (Dowell and
    Jarratt 1971) on it needs three to five measurements, and few more where it is not.

    Args:
        measure: Bytes of the file at a rate point, nearly increasing in the point.
        points: Rate points there are.
        target_bytes: Not to be exceeded.

    Returns:
        The point; point 0 if even its file is too large (the caller decides what that means).
    """
    # Aim a little below the target: landing above it costs another measurement.
    aim = math.log(target_bytes) + math.log(CLOSE_ENOUGH) / 2
    low, high = -1, points  # the file fits at low and doesn't at high; both are outside at first
    below: float | None = None  # ln(bytes) less the aim, at low
    above: float | None = None  # and at high
    slope = TYPICAL_SLOPE / max(1, points - 1)
    point, fitted = points // 2, None
    while high - low > 1:
        size = measure(point)
        error = math.log(size) - aim
        fits = size <= target_bytes
        if fits and size >= CLOSE_ENOUGH * target_bytes:
            return point
        if fits:
            low, below = point, error
        else:
            high, above = point, error
        if below is None or above is None:
            guess = point - error / slope
            slope /= 2  # should this miss too, the next one goes twice as far
        else:
            if fits == fitted:  # the other end stands still: without this it would for long
                below, above = (below, above / 2) if fits else (below / 2, above)
            guess = low - below * (high - low) / (above - below)
        point, fitted = min(max(round(guess), low + 1), high - 1), fits
    return max(low, 0)
