"""Bjøntegaard deltas are those of the textbook, and compare nothing that doesn't compare."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdcodec.errors import InputError
from cdcodec.evaluation import rows
from cdcodec.evaluation.bjontegaard import (
    Curve,
    Delta,
    Incomparable,
    delta_rate,
    delta_score,
    deltas,
)
from cdcodec.evaluation.metrics import Metric
from cdcodec.evaluation.rows import Row

PSNR = Metric("psnr", "PSNR", "dB")
LPIPS = Metric("lpips", "LPIPS", higher_is_better=False)
FID = Metric("fid", "FID", higher_is_better=False, whole=True)

BENT: Curve = [(0.05, 24.0), (0.1, 27.0), (0.2, 29.5), (0.4, 30.0)]

ONE: Curve = [(1358.24, 34.851), (2486.44, 36.845), (4593.60, 38.615), (9487.76, 40.037)]
OTHER: Curve = [(1356.24, 34.987), (2451.52, 36.970), (4469.00, 38.651), (9787.80, 40.121)]
"""Bit rate and PSNR of two encodings of a video."""


def faster(curve: Curve, factor: float) -> Curve:
    return [(factor * bpp, score) for bpp, score in curve]


def better(curve: Curve, gain: float) -> Curve:
    return [(bpp, score + gain) for bpp, score in curve]


def turned(curve: Curve) -> Curve:
    return [(bpp, -score) for bpp, score in curve]


@st.composite
def rising(draw: st.DrawFn) -> Curve:
    steps = draw(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.1, 3)), min_size=2, max_size=6))
    curve, bpp, score = [], 0.01, 20.0
    for wider, gain in steps:
        bpp, score = bpp + wider, score + gain
        curve.append((bpp, score))
    return curve


def test_half_the_rate_is_minus_50_percent() -> None:
    delta = delta_rate(BENT, faster(BENT, 0.5))
    assert delta.value == pytest.approx(-50)
    assert (delta.low_bpp, delta.high_bpp) == pytest.approx((0.05, 0.4))


def test_twice_the_rate_is_plus_100_percent() -> None:
    assert delta_rate(BENT, faster(BENT, 2)).value == pytest.approx(100)


def test_a_curve_one_decibel_higher_is_one_decibel_better() -> None:
    delta = delta_score(BENT, better(BENT, 1))
    assert delta.value == pytest.approx(1)
    assert (delta.low_bpp, delta.high_bpp) == pytest.approx((0.05, 0.4))


def test_values_are_those_of_an_independent_implementation() -> None:
    # The package bjontegaard 1.3.0 of FAU Erlangen, method "pchip".
    assert delta_rate(ONE, OTHER).value == pytest.approx(-4.417485350589045)
    assert delta_score(ONE, OTHER).value == pytest.approx(0.11969278542479489)


def test_two_points_make_a_straight_line_over_the_logarithm_of_the_rate() -> None:
    one: Curve = [(0.1, 20.0), (1.0, 30.0)]
    other: Curve = [(0.1, 22.0), (1.0, 27.0)]
    # At equal rate 2 dB less 7 dB per decade more, from 2 to -3; in both cases by hand.
    assert delta_score(one, other).value == pytest.approx(-0.5)
    # From 22 to 27 dB log10(rate) of one runs from -0.8 to -0.3, and of the other from -1 to 0.
    delta = delta_rate(one, other)
    assert delta.value == pytest.approx(100 * (10**0.05 - 1))
    assert (delta.low_bpp, delta.high_bpp) == pytest.approx((10**-0.8, 10**-0.3))


@given(rising(), rising())
def test_exchanging_the_curves_inverts_the_delta(one: Curve, other: Curve) -> None:
    try:
        there, back = delta_rate(one, other).value, delta_rate(other, one).value
    except Incomparable:
        return
    assert (1 + there / 100) * (1 + back / 100) == pytest.approx(1)


@given(rising(), rising())
def test_a_score_that_is_better_when_lower_has_the_same_delta_of_rate(
    one: Curve, other: Curve
) -> None:
    try:
        up = delta_rate(one, other)
    except Incomparable as error:
        with pytest.raises(Incomparable, match=str(error)):
            delta_rate(turned(one), turned(other), higher_is_better=False)
        return
    assert delta_rate(turned(one), turned(other), higher_is_better=False) == up


@pytest.mark.parametrize("scores", [(24.0, 27.0, 26.0), (24.0, 27.0, 27.0), (27.0, 26.0, 25.0)])
def test_a_curve_that_gets_no_better_with_rate_has_no_delta_of_rate(
    scores: tuple[float, ...],
) -> None:
    curve = list(zip((0.05, 0.1, 0.2), scores, strict=True))
    for pair in ((BENT, curve), (curve, BENT)):
        with pytest.raises(Incomparable, match="not monotone"):
            delta_rate(*pair)
    assert math.isfinite(delta_score(BENT, curve).value)


def test_curves_without_scores_in_common_have_no_delta_of_rate() -> None:
    with pytest.raises(Incomparable, match="no scores in common"):
        delta_rate(BENT, better(BENT, 10))


def test_curves_that_only_touch_have_nothing_in_common() -> None:
    touching = better(BENT, 6 * (1 - 1e-12))
    with pytest.raises(Incomparable, match="no scores in common"):
        delta_rate(BENT, touching)


def test_curves_without_rates_in_common_have_no_delta_of_score() -> None:
    with pytest.raises(Incomparable, match="no rates in common"):
        delta_score(BENT, faster(BENT, 10))


@pytest.mark.parametrize("delta", [delta_rate, delta_score])
def test_one_point_is_no_curve(delta: Callable[[Curve, Curve], object]) -> None:
    with pytest.raises(Incomparable, match="fewer than two points"):
        delta(BENT, BENT[:1])


def test_without_scipy_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.interpolate", None)
    with pytest.raises(InputError, match="scipy") as caught:
        delta_rate(BENT, BENT)
    assert caught.value.hint == "in a checkout of cdcodec: pip install '.[eval]'"


def row(
    codec: str, image: int, target: float, scores: Mapping[str, float | None] | None, bpp: float = 0
) -> Row:
    """Return what was measured; without scores the target is out of reach."""
    blank = {"image": f"{image}.png", "sha256": f"{image}", "width": 8, "height": 8, "version": "1"}
    if scores is None:
        return Row(**blank, codec=codec, target_bpp=target, status=rows.OUT_OF_REACH)  # type: ignore[arg-type]
    return Row(**blank, codec=codec, target_bpp=target, bpp=bpp or target, scores=scores)  # type: ignore[arg-type]


def quality(image: int, bpp: float) -> float:
    """Return a PSNR; pictures differ by 4 dB, and it rises by 10 dB in ten times the rate."""
    return 30 + 4 * image + 10 * math.log10(bpp)


def only(found: list[Delta]) -> Delta:
    assert len(found) == 1
    return found[0]


def test_every_other_curve_is_compared_with_the_reference_by_every_metric_of_pictures() -> None:
    measured = [
        row(codec, image, target, {"psnr": gain + quality(image, target), "lpips": 1 - target})
        for codec, gain in (("b", 3.0), ("a", 0.0), ("c", 1.0))
        for image in range(2)
        for target in (0.1, 0.2, 0.4)
    ]
    found = deltas(measured, "a", [PSNR, FID, LPIPS])
    assert [(d.curve, d.metric) for d in found] == [
        ("b", "psnr"),
        ("b", "lpips"),
        ("c", "psnr"),
        ("c", "lpips"),
    ]
    first, lpips = found[:2]
    assert first.reference == "a"
    assert first.rate_percent == pytest.approx(100 * (10**-0.3 - 1))
    assert first.score == pytest.approx(3)
    assert (first.low_bpp, first.high_bpp) == pytest.approx((0.1 * 10**0.3, 0.4))
    assert (first.score_low_bpp, first.score_high_bpp) == pytest.approx((0.1, 0.4))
    assert (first.points, first.pictures, first.of, first.note) == (3, 2, 2, "")
    assert lpips.rate_percent == pytest.approx(0)


def test_the_same_pictures_are_compared_at_all_targets() -> None:
    # The second codec always needs half the rate. It has only easy pictures at 0.1 bpp.
    measured = []
    for image in range(4):
        for target in (0.1, 0.2, 0.4):
            measured.append(row("a", image, target, {"psnr": quality(image, target)}))
            scores = {"psnr": quality(image, 2 * target)} if image > 1 or target > 0.1 else None
            measured.append(row("b", image, target, scores))
    delta = only(deltas(measured, "a", [PSNR]))
    assert delta.rate_percent == pytest.approx(-50)
    assert delta.score == pytest.approx(10 * math.log10(2))
    assert (delta.points, delta.pictures, delta.of) == (3, 2, 4)


def test_a_target_without_half_of_the_pictures_is_left_out() -> None:
    measured = []
    for image in range(5):
        for target in (0.1, 0.2, 0.4, 0.8):
            measured.append(row("a", image, target, {"psnr": quality(image, target)}))
            scores = {"psnr": quality(image, 2 * target)} if image > 2 or target > 0.1 else None
            measured.append(row("b", image, target, scores))
    delta = only(deltas(measured, "a", [PSNR]))
    assert delta.rate_percent == pytest.approx(-50)
    assert (delta.points, delta.pictures, delta.of) == (3, 5, 5)
    assert delta.score_low_bpp == pytest.approx(0.2)


def test_out_of_reach_is_a_note_and_no_number() -> None:
    measured = [row("a", 0, target, {"psnr": quality(0, target)}) for target in (0.1, 0.2)]
    measured += [row("b", 0, target, None) for target in (0.1, 0.2)]
    note = "fewer than two targets in common"
    nothing = Delta("b", "a", "psnr", None, None, None, None, note, of=1)
    assert only(deltas(measured, "a", [PSNR])) == nothing


def test_a_picture_without_a_score_is_left_out_of_both_curves() -> None:
    measured = []
    for image in range(3):
        for target in (0.1, 0.2, 0.4):
            measured.append(row("a", image, target, {"psnr": quality(image, target)}))
            scores = {"psnr": None if (image, target) == (0, 0.2) else quality(image, 2 * target)}
            measured.append(row("b", image, target, scores))
    delta = only(deltas(measured, "a", [PSNR]))
    assert delta.pictures == 2
    assert delta.rate_percent == pytest.approx(-50)


def test_a_metric_that_was_not_measured_is_a_note() -> None:
    measured = [row(codec, 0, target, {}) for codec in "ab" for target in (0.1, 0.2)]
    assert only(deltas(measured, "a", [PSNR])).note == "no scores"


def test_the_same_file_at_two_targets_is_one_point() -> None:
    measured = [row("a", 0, target, {"psnr": quality(0, target)}) for target in (0.1, 0.2, 0.4)]
    for target, bpp in ((0.1, 0.1), (0.2, 0.15), (0.4, 0.15)):
        measured.append(row("b", 0, target, {"psnr": 1 + quality(0, bpp)}, bpp))
    delta = only(deltas(measured, "a", [PSNR]))
    assert delta.rate_percent == pytest.approx(100 * (10**-0.1 - 1))
    assert delta.score_high_bpp == pytest.approx(0.15)


def test_a_reference_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="no curve avif") as caught:
        deltas([row("a", 0, 0.1, {})], "avif", [PSNR])
    assert caught.value.hint == "there are a"
