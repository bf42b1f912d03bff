"""The search for a rate point keeps the target and needs few measurements."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdcodec import rate

POINTS = 256
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


@pytest.mark.parametrize("name", CURVES)
def test_the_file_found_is_the_largest_that_fits_but_for_one_percent(name: str) -> None:
    curve = CURVES[name]
    for target in targets(curve):
        point = rate.search(curve, POINTS, target)
        best = max(p for p in range(POINTS) if curve(p) <= target)
        assert curve(point) <= target
        assert curve(point) >= rate.CLOSE_ENOUGH * curve(best)


@pytest.mark.parametrize(("name", "typical"), [("straight", 4), ("bent", 5), ("flat at first", 5)])
def test_a_few_measurements_are_enough_for_curves_of_models(name: str, typical: int) -> None:
    needed = []
    for target in targets(CURVES[name]):
        measure = Counted(CURVES[name])
        rate.search(measure, POINTS, target)
        assert len(set(measure.seen)) == len(measure.seen)
        needed.append(len(measure.seen))
    assert sum(needed) / len(needed) <= typical
    assert sorted(needed)[len(needed) * 9 // 10] <= 6


@pytest.mark.parametrize("name", CURVES)
def test_no_curve_is_measured_at_every_point(name: str) -> None:
    for target in targets(CURVES[name]):
        measure = Counted(CURVES[name])
        rate.search(measure, POINTS, target)
        assert len(measure.seen) <= 24


@given(
    st.lists(st.integers(1, 10**6), min_size=1, max_size=256),
    st.integers(1, 10**6),
    st.booleans(),
)
def test_the_target_is_kept_whatever_the_curve(
    sizes: list[int], target: int, monotone: bool
) -> None:
    if monotone:
        sizes = sorted(sizes)
    measure = Counted(lambda point: sizes[point])
    point = rate.search(measure, len(sizes), target)
    assert point == 0 or sizes[point] <= target
    assert point in measure.seen
    assert len(set(measure.seen)) == len(measure.seen)
    if monotone and sizes[0] <= target:
        best = max(size for size in sizes if size <= target)
        assert rate.CLOSE_ENOUGH * best <= sizes[point] <= target


@given(st.integers(0, 2**32), st.floats(0.0, 0.02))
def test_noise_on_the_curve_costs_little(seed: int, noise: float) -> None:
    def curve(point: int) -> int:
        wobble = math.sin(seed + 12.9898 * point) * noise
        return int(300 * math.exp(point / 80 + wobble))

    for target in targets(curve, 10)[1:]:
        measure = Counted(curve)
        point = rate.search(measure, POINTS, target)
        assert point == 0 or 0.9 * target / 1.1 <= curve(point) <= target
        assert len(measure.seen) <= 9


def test_a_target_below_the_range_gives_point_0() -> None:
    assert rate.search(CURVES["straight"], POINTS, 1) == 0


def test_a_target_above_the_range_gives_the_last_point() -> None:
    assert rate.search(CURVES["straight"], POINTS, 10**9) == POINTS - 1


def test_a_model_with_one_rate_point_is_measured_once() -> None:
    measure = Counted(lambda point: 100)
    assert rate.search(measure, 1, 50) == 0
    assert rate.search(measure, 1, 500) == 0
    assert measure.seen == [0, 0]
