"""The search for rate points is exact on curves that waver, and needs few measurements."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cdcodec import rate

POINTS = 256
REACH = 8
Curve = Callable[[int], int]

CURVES: dict[str, Curve] = {
    "straight": lambda point: int(300 * math.exp(point / 80)),
    "bent": lambda point: int(400 * math.exp(3 * (point / 255) ** 1.5)),
    "flat at first": lambda point: int(200 * math.exp(point / 300 + max(point - 128, 0) / 30)),
    "linear in bytes": lambda point: 500 + 40 * point,
    "stairs": lambda point: int(300 * math.exp(point // 16 / 5)),
    "one cliff": lambda point: 100 if point < 40 else 10_000,
}


class Counted:
    """A curve that knows which points were measured."""

    def __init__(self, curve: Curve) -> None:
        self.curve = curve
        self.seen: list[int] = []

    def __call__(self, point: int) -> int:
        self.seen.append(point)
        return self.curve(point)


def targets(curve: Curve, count: int = 100) -> list[int]:
    low, high = curve(0), curve(POINTS - 1)
    return [int(low * (1.1 * high / low) ** (k / count)) for k in range(count)]


def check(measured: dict[int, int], sizes: list[int], target: int) -> None:
    """Check what was measured against the whole curve."""
    largest = max((size for size in sizes if size <= target), default=min(sizes))
    assert measured[rate.best(measured, target)] == largest
    nearest = rate.above(measured, target)
    next_larger = min((size for size in sizes if size > target), default=None)
    assert (None if nearest is None else measured[nearest]) == next_larger


@st.composite
def wavering(draw: st.DrawFn) -> list[int]:
    """Draw a curve of which no file is smaller than an earlier one by more than `rate.waver`."""
    largest = draw(st.sampled_from([60, 1000, 10**6]))
    sizes = draw(st.lists(st.integers(1, largest), min_size=1, max_size=POINTS))
    if draw(st.booleans()):
        noise = draw(st.lists(st.integers(-20, 20), min_size=len(sizes), max_size=len(sizes)))
        sizes = [max(1, size + each) for size, each in zip(sorted(sizes), noise, strict=True)]
    top = 1
    for point, size in enumerate(sizes):
        sizes[point] = max(size, math.ceil(top - rate.waver(top)))
        top = max(top, sizes[point])
    return sizes


@pytest.mark.parametrize("name", CURVES)
def test_the_largest_file_that_fits_is_found_and_so_is_the_next(name: str) -> None:
    sizes = [CURVES[name](point) for point in range(POINTS)]
    for target in [*targets(CURVES[name]), *sizes[::9], sizes[0] - 1]:
        check(rate.search(sizes.__getitem__, POINTS, target, reach=POINTS), sizes, target)


@given(wavering(), st.data())
@example([56, 56, 55, 54, 53, 53, 57, 60], None)
def test_sizes_may_fall_with_the_point(sizes: list[int], data: st.DataObject | None) -> None:
    if data is None:
        chosen = list(range(52, 61))
    else:
        near = st.builds(lambda size, by: size + by, st.sampled_from(sizes), st.integers(-1, 1))
        chosen = data.draw(st.lists(near, min_size=1, max_size=5))
    for target in chosen:
        measure = Counted(sizes.__getitem__)
        check(rate.search(measure, len(sizes), target, reach=POINTS), sizes, target)
        assert len(set(measure.seen)) == len(measure.seen)


@given(wavering(), st.integers(1, 2000), st.integers(1, 2000))
def test_a_second_search_goes_on_from_the_first(sizes: list[int], first: int, second: int) -> None:
    known = rate.search(sizes.__getitem__, len(sizes), first, reach=POINTS)
    measure = Counted(sizes.__getitem__)
    check(rate.search(measure, len(sizes), second, reach=POINTS, known=known), sizes, second)
    assert not set(measure.seen) & set(known)


@given(
    st.lists(st.integers(1, 10**6), min_size=1, max_size=256),
    st.integers(1, 10**6),
    st.sampled_from([None, rate.CLOSE_ENOUGH]),
)
def test_on_any_curve_the_target_is_kept_and_bracketed(
    sizes: list[int], target: int, enough: float | None
) -> None:
    measure = Counted(sizes.__getitem__)
    measured = rate.search(measure, len(sizes), target, reach=REACH, enough=enough)
    assert sorted(measure.seen) == sorted(measured)
    found = measured[rate.best(measured, target)]
    assert found <= target or min(sizes[0], *measured.values()) > target
    if enough is None or not enough * target <= found <= target:
        fits = {point: size <= target for point, size in measured.items()} | {-1: True}
        assert any(
            fits.get(point) and not fits.get(point + 1, point + 1 < len(sizes))
            for point in range(-1, len(sizes))
        )


@pytest.mark.parametrize(
    ("name", "exact", "nearly"),
    [("straight", 8, 5), ("bent", 9, 6), ("flat at first", 12, 6), ("linear in bytes", 9, 6)],
)
def test_a_few_measurements_are_enough_for_curves_of_models(
    name: str, exact: int, nearly: int
) -> None:
    for enough, typical in ((None, exact), (rate.CLOSE_ENOUGH, nearly)):
        needed = []
        for target in targets(CURVES[name]):
            measure = Counted(CURVES[name])
            rate.search(measure, POINTS, target, reach=REACH, enough=enough)
            needed.append(len(measure.seen))
        assert sum(needed) / len(needed) <= typical


@pytest.mark.parametrize("name", CURVES)
def test_no_curve_is_measured_at_every_point(name: str) -> None:
    for target in targets(CURVES[name]):
        measure = Counted(CURVES[name])
        rate.search(measure, POINTS, target, reach=REACH)
        assert len(measure.seen) <= 24 + 2 * REACH


@pytest.mark.parametrize("name", CURVES)
def test_a_file_that_is_large_enough_ends_the_search(name: str) -> None:
    curve = CURVES[name]
    for target in targets(curve):
        measured = rate.search(curve, POINTS, target, reach=REACH, enough=rate.CLOSE_ENOUGH)
        best = max(curve(point) for point in range(POINTS) if curve(point) <= target)
        assert rate.CLOSE_ENOUGH * best <= measured[rate.best(measured, target)] <= target


@given(st.integers(0, 2**32), st.floats(0.0, 0.02))
def test_noise_on_the_curve_costs_little(seed: int, noise: float) -> None:
    def curve(point: int) -> int:
        wobble = math.sin(seed + 12.9898 * point) * noise
        return int(300 * math.exp(point / 80 + wobble))

    for target in targets(curve, 10)[1:]:
        measure = Counted(curve)
        measured = rate.search(measure, POINTS, target, reach=POINTS)
        assert 0.9 * target / 1.1 <= measured[rate.best(measured, target)] <= target
        assert len(measure.seen) <= 20


def test_a_target_above_the_range_gives_the_last_point() -> None:
    measured = rate.search(CURVES["straight"], POINTS, 10**9, reach=REACH)
    assert rate.best(measured, 10**9) == POINTS - 1
    assert rate.above(measured, 10**9) is None


@pytest.mark.parametrize("target", [0, 1, 299])
def test_a_target_below_the_range_gives_the_smallest_file(target: int) -> None:
    measured = rate.search(CURVES["straight"], POINTS, target, reach=POINTS)
    assert rate.best(measured, target) == rate.above(measured, target) == 0


def test_of_files_of_one_size_the_highest_point_is_best() -> None:
    assert rate.best({0: 5, 1: 7, 2: 7, 3: 9}, 8) == 2
    assert rate.best({0: 5, 1: 5, 2: 7}, 4) == 1


def test_a_model_with_one_rate_point_is_measured_once() -> None:
    measure = Counted(lambda point: 100)
    assert (
        rate.search(measure, 1, 50, reach=REACH)
        == rate.search(measure, 1, 500, reach=REACH)
        == {0: 100}
    )
    assert measure.seen == [0, 0]
