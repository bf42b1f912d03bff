"""Bjøntegaard deltas: how far one curve of rate and score lies from another, in one number.

Bjøntegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33, 2001: both
curves are interpolated over log10(rate), and the area between them is divided by the length of
what they have in common. VCEG-M33 lays one cubic through four points; here, as in JVET's template
(ITU-T HSTP-VID-WPOM, 2020), the interpolation is piecewise cubic and monotone where the points
are (PCHIP, Fritsch and Butland 1984). Two points make a straight line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING

from cdcodec.errors import InputError, extra_hint
from cdcodec.evaluation.rows import OK, Row

if TYPE_CHECKING:
    from scipy.interpolate import PchipInterpolator  # type: ignore[import-untyped]

    from cdcodec.evaluation.metrics import Metric

Curve = Sequence[tuple[float, float]]
"""Points (bpp, score) in order of bpp, every bpp once."""

LEAST_OVERLAP = 1e-6
"""Of all that two curves span: what is less is an error of rounding where they only touch."""

_Picture = tuple[str, str]
"""Name and sha256."""

_Rows = dict[float, dict[_Picture, Row]]
"""A curve's rows that reached their target, by target in bpp and picture."""


@dataclass(frozen=True)
class Delta:
    """How far a curve lies from the reference by one metric.

    Attributes:
        curve: Row.curve; reference likewise.
        metric: Name of the metric.
        rate_percent: Mean difference of rate at equal score; negative if the curve saves bits.
        score: Mean difference of score at equal rate, in the metric's own unit and sign.
        low_bpp: Rates of the reference, from low_bpp to high_bpp, at the scores that both curves
            have; rate_percent is a mean over those. None with it.
        note: Why rate_percent or score is None.
        score_low_bpp: Rates that both curves have, to score_high_bpp; score is a mean over those.
        points: Targets, and so points of each curve, that were compared.
        pictures: That both codecs have at all these targets, with a score; all means are over
            them. `of` is how many there are.
    """

    curve: str
    reference: str
    metric: str
    rate_percent: float | None
    score: float | None
    low_bpp: float | None
    high_bpp: float | None
    note: str = ""
    score_low_bpp: float | None = None
    score_high_bpp: float | None = None
    points: int = 0
    pictures: int = 0
    of: int = 0


@dataclass(frozen=True)
class Mean:
    """A mean difference and the rates it was taken over, in bpp."""

    value: float
    low_bpp: float
    high_bpp: float


class Incomparable(ValueError):
    """Two curves have no delta; the message says why in few words."""


def deltas(rows: Sequence[Row], reference: str, metrics: Sequence[Metric]) -> list[Delta]:
    """Compare every curve with the reference.

    All means of a pair of curves are over the same pictures, those that both codecs have at every
    target that counts. Means over what is reached target by target would not do: points of equal
    score belong to different targets, and would compare different pictures. A target counts if
    at least half of all pictures remain; those that cost fewest pictures are taken first.

    Args:
        rows: One for each picture, target and curve; of several the last counts.
        reference: A curve.
        metrics: Those of whole sets are passed over, as they have no scores of single pictures.

    Returns:
        One for each other curve, in order of appearance, and metric.

    Raises:
        InputError: If the rows have no such reference, or scipy is missing.
    """
    curves: dict[str, _Rows] = {}
    for row in rows:
        reached = curves.setdefault(row.curve, {})
        if row.status == OK:
            reached.setdefault(row.target_bpp, {})[row.image, row.sha256] = row
    if reference not in curves:
        raise InputError(
            f"there is no curve {reference} to compare with",
            hint=f"there are {'; '.join(curves)}" if curves else None,
        )
    total = len({(row.image, row.sha256) for row in rows})
    found = []
    for curve, reached in curves.items():
        if curve == reference:
            continue
        targets, pictures = _common(curves[reference], reached, total)
        pair = [[rows_at[t] for t in targets] for rows_at in (curves[reference], reached)]
        for metric in metrics:
            if not metric.whole:
                blank = Delta(curve, reference, metric.name, None, None, None, None, of=total)
                found.append(_compare(blank, metric, pair[0], pair[1], pictures))
    return found


def _common(one: _Rows, other: _Rows, total: int) -> tuple[list[float], list[_Picture]]:
    """Return the targets to compare two curves at, and the pictures that both have at them all."""
    both = {target: one[target].keys() & other[target].keys() for target in one if target in other}
    targets: list[float] = []
    pictures: set[_Picture] = set()
    # A codec can miss a target in the middle too, if the steps of its quality scale are coarse.
    for target in sorted(both, key=lambda t: (-len(both[t]), -t)):
        left = pictures & both[target] if targets else both[target]
        if left and 2 * len(left) >= total:
            pictures = left
            targets.append(target)
    return sorted(targets), sorted(pictures)


def _compare(
    blank: Delta,
    metric: Metric,
    reference: Sequence[Mapping[_Picture, Row]],
    curve: Sequence[Mapping[_Picture, Row]],
    pictures: Sequence[_Picture],
) -> Delta:
    """Fill in a Delta from the rows of both curves at the same targets."""
    scored = [
        picture
        for picture in pictures
        if all(at[picture].scores.get(metric.name) is not None for at in (*reference, *curve))
    ]
    blank = replace(blank, points=len(reference), pictures=len(scored))
    if len(reference) < 2:
        return replace(blank, note="fewer than two targets in common")
    if not scored:
        return replace(blank, note="no scores")
    means = [_means(metric.name, rows_at, scored) for rows_at in (reference, curve)]
    notes = []
    try:
        rate = delta_rate(*means, higher_is_better=metric.higher_is_better)
        blank = replace(
            blank, rate_percent=rate.value, low_bpp=rate.low_bpp, high_bpp=rate.high_bpp
        )
    except Incomparable as error:
        notes.append(str(error))
    try:
        score = delta_score(*means)
        blank = replace(
            blank, score=score.value, score_low_bpp=score.low_bpp, score_high_bpp=score.high_bpp
        )
    except Incomparable as error:
        notes.append(str(error))
    return replace(blank, note="; ".join(dict.fromkeys(notes)))


def _means(
    metric: str, rows_at: Sequence[Mapping[_Picture, Row]], pictures: Sequence[_Picture]
) -> Curve:
    # A codec whose largest file is below two targets has the same point at both.
    curve: dict[float, float] = {}
    for at in rows_at:
        rates = [at[picture].bpp for picture in pictures]
        scores = [at[picture].scores[metric] for picture in pictures]
        curve[fmean(b for b in rates if b is not None)] = fmean(s for s in scores if s is not None)
    return sorted(curve.items())


def delta_rate(reference: Curve, curve: Curve, *, higher_is_better: bool = True) -> Mean:
    """Return the mean difference of rate at equal score, in percent of the reference's rate.

    The rates of the result are the reference's, at the ends of the scores that both curves have.

    Args:
        reference: Two points or more.
        curve: Likewise.
        higher_is_better: Whether a better score is a larger one.

    Raises:
        Incomparable: If a curve has fewer points or doesn't get better from each to the next, or
            if the curves have no scores in common.
        InputError: If scipy is missing.
    """
    sign = 1 if higher_is_better else -1
    turned = []
    for points in (reference, curve):
        scores = [sign * score for _, score in points]
        if any(after <= before for before, after in pairwise(scores)):
            raise Incomparable("not monotone")
        turned.append([(s, math.log10(bpp)) for s, (bpp, _) in zip(scores, points, strict=True)])
    low, high = _overlap(turned[0], turned[1], "scores")
    base, other = _interpolate(turned[0]), _interpolate(turned[1])
    mean = float(other.integrate(low, high) - base.integrate(low, high)) / (high - low)
    return Mean(100 * (10**mean - 1), 10 ** float(base(low)), 10 ** float(base(high)))


def delta_score(reference: Curve, curve: Curve) -> Mean:
    """Return the mean difference of score at equal rate, all ratios of rates counting alike.

    Args:
        reference: Two points or more; scores may rise and fall.
        curve: Likewise.

    Raises:
        Incomparable: If a curve has fewer points, or the curves have no rates in common.
        InputError: If scipy is missing.
    """
    turned = [[(math.log10(bpp), score) for bpp, score in points] for points in (reference, curve)]
    low, high = _overlap(turned[0], turned[1], "rates")
    base, other = _interpolate(turned[0]), _interpolate(turned[1])
    mean = float(other.integrate(low, high) - base.integrate(low, high)) / (high - low)
    return Mean(mean, 10**low, 10**high)


def _overlap(one: Curve, other: Curve, what: str) -> tuple[float, float]:
    """Return the part of the first coordinate that two curves share."""
    if min(len(one), len(other)) < 2:
        raise Incomparable("fewer than two points")
    (start, low), (high, end) = sorted((one[0][0], other[0][0])), sorted((one[-1][0], other[-1][0]))
    if high - low <= LEAST_OVERLAP * (end - start):
        raise Incomparable(f"no {what} in common")
    return low, high


def _interpolate(points: Curve) -> PchipInterpolator:
    try:
        from scipy.interpolate import PchipInterpolator
    except ImportError as error:
        raise InputError("Bjøntegaard deltas need scipy", hint=extra_hint("eval")) from error
    return PchipInterpolator(*zip(*points, strict=True))
