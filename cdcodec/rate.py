"""Rate control: the largest file within a target, though not every file is larger than the last.

Now and then a file is smaller than that of a lower point. `waver` gives a bound for the difference.
On every curve of bytes against points that keeps to this bound, the search finds the best file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

TYPICAL_SLOPE = math.log(20)
"""ln(largest / smallest file) over all rate points of a model; only a first guess."""

CLOSE_ENOUGH = 0.99
"""Share of the target that ends a search if every measurement takes long."""


def waver(size: int) -> float:
    """Return by how many bytes a file may be smaller than one of size bytes at a lower point.

    Many symbols differ, each nearly by chance, hence the square root; the entropy coder ends with a
    32-bit word, hence the 4. The bound holds for all rate points of cdc-nano, rdeic-nano,
    diffeic-nano and palette-nano on crops of three photographs, of 1 to 400,000 pixels.
    """
    return 4 + math.sqrt(size) / 2


def search(
    measure: Callable[[int], int],
    points: int,
    target_bytes: int,
    *,
    reach: int,
    known: Mapping[int, int] | None = None,
    enough: float | None = None,
) -> dict[int, int]:
    """Measure rate points until the best file for a target is among them; see `best` and `above`.

    ln(bytes) is nearly linear in the point, so the Illinois variant of regula falsi (Dowell and
    Jarratt 1971) on it soon comes to two neighbours of which the lower one fits and the higher one
    doesn't. From there `look_around` measures the points on both sides.

    Args:
        measure: Bytes of the file at a rate point, at least 1.
        points: Rate points there are.
        target_bytes: Not to be exceeded.
        reach: As of look_around.
        known: Bytes at points that were measured before; they aren't measured again.
        enough: A file that fits and takes this share of the target ends the search at once.

    Returns:
        Bytes at all points that were measured or known.
    """
    sizes = dict(known or {})
    # The file fits at low and doesn't at high; at first both may be outside.
    low = max((point for point, size in sizes.items() if size <= target_bytes), default=-1)
    high = min((point for point in sizes if point > low), default=points)
    # Where a smaller file is enough, landing above the target costs another measurement. No file
    # has half a byte: were the aim a size that a file can have, guesses would not leave that file.
    aim = math.log(max(target_bytes, 0) + 0.5) + math.log(enough or 1) / 2
    below = math.log(sizes[low]) - aim if low in sizes else None
    beyond = math.log(sizes[high]) - aim if high in sizes else None
    slope = TYPICAL_SLOPE / max(1, points - 1)
    fitted: bool | None = None
    while high - low > 1:
        if below is not None and beyond is not None:
            guess = low - below * (high - low) / (beyond - below)
        elif below is not None:
            guess = low - below / slope
            slope /= 2  # should this miss too, the next one goes twice as far
        elif beyond is not None:
            guess = high - beyond / slope
            slope /= 2
        else:
            guess = points / 2
        point = min(max(round(guess), low + 1), high - 1)
        size = sizes[point] = measure(point)
        fits = size <= target_bytes
        if fits and enough is not None and size >= enough * target_bytes:
            return sizes
        if fits:
            low, below = point, math.log(size) - aim
        else:
            high, beyond = point, math.log(size) - aim
        if fits is fitted and below is not None and beyond is not None:
            # The other end stands still: without this it would for long.
            below, beyond = (below, beyond / 2) if fits else (below / 2, beyond)
        fitted = fits
    return look_around(measure, points, target_bytes, low, sizes, reach)


def look_around(
    measure: Callable[[int], int],
    points: int,
    target_bytes: int,
    low: int,
    known: Mapping[int, int],
    reach: int,
) -> dict[int, int]:
    """Measure the points near a target that may have a better file than those known; see `search`.

    On either side this ends where sizes are so far off that no point beyond can have a better file.

    Args:
        measure: As of search.
        points: As of search.
        target_bytes: As of search.
        low: Where to begin: the file fits here and doesn't at the next point. -1 and points - 1 are
            allowed.
        known: As of search.
        reach: The most points to measure on either side. Without this limit there would be very
            many where sizes hardly change with the point.
    """
    sizes = dict(known)

    def size_at(point: int) -> int:
        if point not in sizes:
            sizes[point] = measure(point)
        return sizes[point]

    for point in range(low + 1, min(low + 1 + reach, points)):
        size = size_at(point)
        nearest = above(sizes, target_bytes)
        if nearest is not None and size - waver(size) >= sizes[nearest]:
            break
    for point in range(low, max(low - reach, -1), -1):
        size = size_at(point)
        largest = sizes[best(sizes, target_bytes)]
        if size <= largest - waver(largest):
            break
    return sizes


def best(sizes: Mapping[int, int], target_bytes: int) -> int:
    """Return the point of the largest file that fits, or of the smallest file if none fits.

    Of points with files of equal size it is the highest.
    """
    fitting = [(size, point) for point, size in sizes.items() if size <= target_bytes]
    if fitting:
        return max(fitting)[1]
    return max((-size, point) for point, size in sizes.items())[1]


def above(sizes: Mapping[int, int], target_bytes: int) -> int | None:
    """Return the point of the smallest file that doesn't fit, or None if all do."""
    return min(
        (point for point, size in sizes.items() if size > target_bytes),
        key=sizes.__getitem__,
        default=None,
    )
