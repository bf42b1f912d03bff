"""Smaller files out of larger ones, without the original and without networks."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache

from cdcodec import families, rate
from cdcodec.api import (
    SIDE,
    Encoded,
    FileSource,
    Stopwatch,
    check_targets,
    open_walk,
    read_bytes,
    read_file,
    read_latents,
)
from cdcodec.bitstream import container as box
from cdcodec.bitstream.container import ChunkType
from cdcodec.codec import Latents, ScalableWalk, Shrinker
from cdcodec.draft import Draft, Drafter, Trials
from cdcodec.errors import InputError, OutOfReach

GUESSES = 6
"""Files written by guess; if they close in too slowly, the rest is found by halving."""

NEAR_ENOUGH = 0.98
"""A file that takes this share of the target ends the search. Encoding searches on for the largest
file that fits: writing files is the smallest part of its work, but nearly all of transcoding's."""


@dataclass(frozen=True)
class Transcoded(Encoded):
    """A file made of another, and how it came about; see Encoded.

    Attributes:
        source_bytes: Length of the other one.
        source_point: Its rate point.
    """

    source_bytes: int
    source_point: int


@dataclass(frozen=True)
class _Shrinking:
    """A file's latents in place of an image's analysis; see draft.Quantiser."""

    walk: ScalableWalk
    shrinker: Shrinker

    def quantise(self, _analysis: object, point: int) -> Latents:
        return self.shrinker.latents(point)


def transcode(
    source: FileSource,
    *,
    bpp: float | None = None,
    size: int | None = None,
    quality: float | None = None,
    model: str | None = None,
    max_pixels: int = box.MAX_PIXELS,
    offline: bool = False,
) -> Transcoded:
    """Make a smaller file of one whose family is scalable.

    What comes out is what `encode` would have written of the original at that rate point, byte for
    byte. A file can't grow: if more is asked for than it has, it stays as it is.

    Args:
        source: A path, the file's bytes or an open file.
        bpp: Bits per pixel of the whole file, not to be exceeded; met to 2 % if points allow.
        size: Bytes of the whole file, likewise.
        quality: 0..100, as of encode. Exactly one of bpp, size and quality.
        model: As in decode.
        max_pixels: Larger images are refused before memory is taken.
        offline: Never fetch weights.

    Raises:
        InputError: If the file is of a family that isn't scalable.
        OutOfReach: If the target is below what can be made of the file; an InputError too.
        CdcError: Any of its kinds, as decode does.
    """
    check_targets(bpp, size, quality)
    if bpp is None and size is None and quality is None:
        raise InputError("one of bpp, size and quality must say how far")
    watch = Stopwatch()
    data = read_bytes(source)
    file = read_file(source, data, max_pixels)
    header = file.header
    family = families.by_number(header.family)
    watch.lap("read")
    chosen, walk = open_walk(file, family, offline, model)
    if not isinstance(walk, ScalableWalk):
        raise InputError(
            f"files of {chosen.name} can't be made smaller without the original",
            hint="those of the family palette can",
        )
    watch.lap("load")
    latents, reader = read_latents(file, walk)
    watch.lap("entropy")
    extras = [chunk for chunk in file.chunks if chunk.type not in (ChunkType.LATENTS, *SIDE)]
    shrinker = walk.shrinker(latents, header.point)
    drafter = Drafter(_Shrinking(walk, shrinker), None, header, extras)
    pixels = header.width * header.height

    draft, note, target_bpp = None, None, None
    if quality is not None:
        point = round(quality / 100 * (walk.rate_points - 1))
        if point < header.point:
            draft = drafter.write(point)
        elif point > header.point:
            note = f"the file is of rate point {header.point} and can't get up to {point}"
    else:
        if size is not None:
            budget, target_bpp = int(size), 8 * size / pixels
        else:
            assert bpp is not None
            budget, target_bpp = int(bpp * pixels / 8), bpp
        if len(data) > budget:
            draft = _fit(drafter, shrinker, budget, len(data))
        elif len(data) < 0.96 * budget:
            note = f"the file has {8 * len(data) / pixels:.4f} bpp and can't get more"
    watch.lap("code")
    return Transcoded(
        data=data if draft is None else draft.data,
        width=header.width,
        height=header.height,
        model=chosen.name,
        family=family,
        point=header.point if draft is None else draft.point,
        target_bpp=target_bpp,
        bits=dict(reader.bits if draft is None else draft.bits),
        seconds=watch.seconds,
        notes=() if note is None else (note,),
        source_bytes=len(data),
        source_point=header.point,
    )


def _fit(drafter: Drafter, shrinker: Shrinker, budget: int, source_bytes: int) -> Draft:
    """Return the largest file, or nearly, within a budget in bytes that the source is above.

    Writing takes nearly all of the time, so few are written: estimates are good for ratios, and
    better the nearer a file is that was written.

    Raises:
        OutOfReach: If even the smallest is too large.
    """
    estimate = cache(shrinker.estimate)
    trials = Trials(drafter.write, budget)
    low, high = -1, drafter.header.point  # the file fits at low, and doesn't at high
    sizes = {high: source_bytes}
    last = high
    for guesses in itertools.count():
        if low >= 0 and sizes[low] >= NEAR_ENOUGH * budget:
            return trials.draft
        if high - low <= 1:
            break
        between = range(low + 1, high)
        point = between[len(between) // 2]
        if guesses < GUESSES:
            # The nearest that was written on the other side of the budget, or the one before.
            others = [each for each in sizes if each != last]
            other = next(
                (each for each in (low, high) if each in others), min(others, default=last)
            )
            aim = (1 + NEAR_ENOUGH) / 2 * budget
            wanted = _wanted(aim, *((estimate(each), sizes[each]) for each in (last, other)))
            # Estimates rise but for a few per cent: where they don't, the next guess sees to it.
            point = between[max(bisect_right(between, wanted, key=estimate) - 1, 0)]
        last, sizes[point] = point, trials.measure(point)
        if sizes[point] > budget:
            high = point
        else:
            low = point
    points = drafter.header.point
    reach = points if low < 0 else drafter.reach
    sizes = rate.look_around(trials.measure, points, budget, low, sizes, reach)
    smallest = min(sizes.values())
    if smallest > budget:
        bpp = 8 * smallest / (drafter.header.width * drafter.header.height)
        hint = f"the smallest possible file has {smallest} bytes, {bpp:.4f} bpp"
        raise OutOfReach(f"{budget} bytes are too few for this image", hint=hint)
    return trials.draft


def _wanted(aim: float, last: tuple[float, int], other: tuple[float, int]) -> float:
    """Return the estimate of a file of so many bytes, from estimates and bytes of two, or of one.

    Bytes are nearly a power of the estimate.
    """
    power = 1.0
    if last[0] != other[0] and last[1] != other[1]:
        power = math.log(last[1] / other[1]) / math.log(last[0] / other[0])
    wanted: float = last[0] * (aim / last[1]) ** (1 / min(max(power, 0.5), 2.0))
    return wanted
