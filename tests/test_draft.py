"""Fitting a budget, with and without a description that is known only at the end."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from cdcodec.draft import DIFFERENCE, Draft, Fit

LONGEST = 20


class Counted:
    """Stands for a drafter: files of given sizes, and descriptions of given lengths."""

    def __init__(self, sizes: list[int], lengths: list[int]) -> None:
        self.sizes = sizes
        self.lengths = lengths
        self.points = self.reach = len(sizes)
        self.finished: list[int] = []

    def write(self, point: int) -> Draft:
        return Draft(point, bytes(self.sizes[point] + LONGEST), b"", {}, {}, {})

    def finish(self, draft: Draft) -> Draft:
        self.finished.append(draft.point)
        return replace(draft, data=bytes(self.sizes[draft.point] + self.lengths[draft.point]))


@given(
    st.lists(st.integers(23, 900), min_size=1, max_size=40).map(sorted),
    st.integers(0, LONGEST - DIFFERENCE),
    st.data(),
)
def test_each_point_is_charged_with_its_own_description(
    sizes: list[int], shortest: int, data: st.DataObject
) -> None:
    length = st.integers(shortest, shortest + DIFFERENCE)
    lengths = data.draw(st.lists(length, min_size=len(sizes), max_size=len(sizes)))
    whole = [size + length for size, length in zip(sizes, lengths, strict=True)]
    budget = data.draw(st.sampled_from(whole)) + data.draw(st.integers(-1, 1))
    drafter = Counted(sizes, lengths)
    fit = Fit(drafter, budget, drafter.finish)
    assert len(fit.draft.data) == max((n for n in whole if n <= budget), default=min(whole))
    assert len(fit.draft.data) == whole[fit.draft.point]
    assert fit.larger() == min((n for n in whole if n > budget), default=None)
    assert len(set(drafter.finished)) == len(drafter.finished)


def test_few_points_are_described_where_files_are_far_apart() -> None:
    sizes = [500 + 40 * point for point in range(256)]
    for budget in range(600, 10_000, 97):
        drafter = Counted(sizes, [5] * 256)
        Fit(drafter, budget, drafter.finish)
        assert len(drafter.finished) <= 2


@given(st.lists(st.integers(1, 900), min_size=1, max_size=40).map(sorted), st.integers(0, 1000))
@example([7, 7, 7], 7)
def test_without_descriptions_nothing_is_finished(sizes: list[int], budget: int) -> None:
    drafter = Counted([size - LONGEST for size in sizes], [])
    fit = Fit(drafter, budget)
    assert len(fit.draft.data) == max((n for n in sizes if n <= budget), default=min(sizes))
    assert fit.larger() == min((n for n in sizes if n > budget), default=None)
