"""Means say over which pictures they are, and tables don't hide what is out of reach."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from cdcodec.evaluation import rows, summary
from cdcodec.evaluation.metrics import Metric
from cdcodec.evaluation.rows import Row
from cdcodec.evaluation.summary import Delta, Point

PSNR = Metric("psnr", "PSNR", "dB", digits=2)
LPIPS = Metric("lpips", "LPIPS", higher_is_better=False)
FID = Metric("fid", "FID", higher_is_better=False, digits=1, whole=True)


def row(
    codec: str,
    image: str,
    target: float,
    scores: Mapping[str, float | None] | None,
    steps: int | None = None,
) -> Row:
    """Return what was measured; without scores the target is out of reach."""
    blank = Row(image, image, 8, 8, codec, "1", target, steps, status=rows.OUT_OF_REACH)
    if scores is None:
        return blank
    values = {
        "status": rows.OK,
        "bpp": 0.9 * target,
        "scores": scores,
        "encode_seconds": {"analysis": 1.0, "coding": 0.5},
        "decode_seconds": {"all": 2.0},
    }
    return Row(**{**vars(blank), **values})


def point(
    curve: str, target: float, scores: Mapping[str, float | None], pictures: int = 2, of: int = 2
) -> Point:
    seconds = 0.25 if pictures else None
    bpp = 0.98 * target if pictures else None
    return Point(curve, curve, None, target, pictures, of, bpp, scores, seconds, seconds)


def cells(text: str, curve: str) -> list[str]:
    """Return the cells of a curve's first line."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {curve} |"))
    return line.strip("| ").split(" | ")


def test_points_are_means_over_the_pictures_that_reached_the_target() -> None:
    measured = [
        row("a", "x", 0.1, {"psnr": 20.0}),
        row("a", "y", 0.1, {"psnr": 23.0}),
        row("a", "z", 0.1, None),
    ]
    found = summary.points(measured)
    assert found == [Point("a", "a", None, 0.1, 2, 3, found[0].bpp, {"psnr": 21.5}, 1.5, 2.0)]
    assert found[0].bpp == pytest.approx(0.09)


def test_curves_come_in_order_of_appearance_and_targets_ascending() -> None:
    order = [("b", 0.2, 5), ("b", 0.2, 1), ("a", 0.2, None), ("b", 0.05, 1), ("a", 0.1, None)]
    measured = [row(codec, "x", target, {}, steps) for codec, target, steps in order]
    assert [(p.curve, p.target_bpp) for p in summary.points(measured)] == [
        ("b, 5 steps", 0.2),
        ("b, 1 step", 0.05),
        ("b, 1 step", 0.2),
        ("a", 0.1),
        ("a", 0.2),
    ]


def test_a_target_that_no_picture_reached_has_a_point_without_values() -> None:
    found = summary.points([row("a", "x", 0.1, None)], {("a", 0.1): {"fid": 3.0}})
    assert found == [Point("a", "a", None, 0.1, 0, 1, None, {}, None, None)]


def test_an_undefined_score_is_left_out_of_the_mean() -> None:
    measured = [
        row("a", "x", 0.1, {"psnr": None, "lpips": None}),
        row("a", "y", 0.1, {"psnr": 23.0, "lpips": None}),
    ]
    found = summary.points(measured)[0]
    assert found.scores == {"psnr": 23.0, "lpips": None}
    assert found.is_whole


def test_scores_of_whole_sets_join_the_means() -> None:
    found = summary.points([row("a", "x", 0.1, {"psnr": 20.0})], {("a", 0.1): {"fid": 3.0}})
    assert found[0].scores == {"psnr": 20.0, "fid": 3.0}


def test_a_picture_counts_once() -> None:
    measured = [row("a", "x", 0.1, {"psnr": psnr}) for psnr in (1.0, 20.0)]
    found = summary.points(measured)[0]
    assert (found.pictures, found.of, found.scores["psnr"]) == (1, 1, 20.0)


def test_there_is_a_table_for_every_target() -> None:
    found = [point("a", 0.1, {"psnr": 21.456}), point("a", 0.03, {"psnr": None})]
    text = summary.markdown(found, [], [PSNR, LPIPS])
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "### 0.03 bpp",
        "### 0.1 bpp",
    ]
    head = "| curve | bpp | pictures | PSNR, dB ↑ | LPIPS ↓ | encode, s | decode, s |"
    assert text.count(head) == 2
    assert "| a | 0.0980 | 2 | 21.46 | – | 0.25 | 0.25 |" in text
    assert "| a | 0.0294 | 2 | – | – | 0.25 | 0.25 |" in text


def test_all_lines_of_a_table_have_as_many_cells() -> None:
    text = summary.markdown([point("a|b", 0.1, {}), point("c", 0.1, {})], [], [PSNR, FID])
    assert "a\\|b" in text
    lines = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {8}


def test_the_best_value_is_bold() -> None:
    found = [
        point("a", 0.1, {"psnr": 20.0, "lpips": 0.3}),
        point("b", 0.1, {"psnr": 21.0, "lpips": 0.4}),
        point("c", 0.1, {"psnr": 21.001, "lpips": None}),
    ]
    text = summary.markdown(found, [], [PSNR, LPIPS])
    assert cells(text, "a")[3:5] == ["20.00", "**0.300**"]
    assert cells(text, "b")[3:5] == ["**21.00**", "0.400"]
    assert cells(text, "c")[3:5] == ["**21.00**", "–"]


def test_a_mean_over_some_of_the_pictures_is_never_bold_and_says_so() -> None:
    found = [
        point("a", 0.1, {"psnr": 20.0}, of=3, pictures=3),
        point("b", 0.1, {"psnr": 30.0}, of=3, pictures=2),
        point("c", 0.1, {"psnr": 19.0}, of=3, pictures=3),
    ]
    text = summary.markdown(found, [], [PSNR])
    assert cells(text, "a")[2:4] == ["3", "**20.00**"]
    assert cells(text, "b")[2:4] == ["2 of 3", "30.00"]
    assert "- b: out of reach for 1 of 3 pictures; means over the others only\n" in text


def test_a_single_value_is_not_the_best_of_anything() -> None:
    assert "**" not in summary.markdown([point("a", 0.1, {"psnr": 20.0})], [], [PSNR])


def test_what_is_out_of_reach_is_listed_and_has_no_line() -> None:
    found = [point("a", 0.1, {"psnr": 20.0}), point("webp", 0.1, {}, pictures=0)]
    text = summary.markdown(found, [], [PSNR])
    assert "\n\n- webp: out of reach for 2 of 2 pictures\n" in text
    assert "| webp |" not in text


def test_a_target_out_of_reach_of_all_has_no_table() -> None:
    text = summary.markdown([point("webp", 0.1, {}, pictures=0)], [], [PSNR])
    assert text == "### 0.1 bpp\n\n- webp: out of reach for 2 of 2 pictures\n"


def test_deltas_come_with_the_rates_they_hold_for() -> None:
    rates = {"score_low_bpp": 0.05, "score_high_bpp": 0.2}
    counted = {"points": 3, "of": 24, **rates}
    found = [
        Delta("a", "avif", "psnr", -12.345, 0.5, 0.1, 0.15, pictures=20, **counted),  # type: ignore[arg-type]
        Delta("a", "avif", "lpips", None, -0.1, None, None, "not monotone", pictures=24, **counted),  # type: ignore[arg-type]
        Delta("jpeg", "avif", "psnr", None, None, None, None, "fewer than two targets in common"),
        Delta("jpeg", "avif", "lpips", None, None, None, None, "fewer than two targets in common"),
    ]
    text = summary.markdown([], found, [FID, LPIPS, PSNR])
    assert text.startswith("### Bjøntegaard deltas against avif\n\n")
    assert text.count("| curve | targets | pictures | LPIPS ↓ | PSNR, dB ↑ |\n") == 2
    assert "| a | 3 | 20–24 of 24 | not monotone | -12.3 % (0.100–0.150) |\n" in text
    assert "| a | 3 | 20–24 of 24 | -0.100 (0.050–0.200) | +0.50 (0.050–0.200) |\n" in text
    assert text.endswith("\n\n- jpeg: fewer than two targets in common\n")


def test_rows_become_tables_in_one_go() -> None:
    measured = [
        row(codec, image, target, {"psnr": gain + 100 * target})
        for codec, gain in (("cdc", 5.0), ("avif", 0.0))
        for image in "xy"
        for target in (0.1, 0.2)
    ]
    found = summary.deltas(measured, "avif", [PSNR])
    text = summary.markdown(summary.points(measured), found, [PSNR])
    assert cells(text, "cdc") == ["cdc", "0.0900", "2", "**15.00**", "1.50", "2.00"]
    assert "| cdc | 2 | 2 | -29.3 % (0.127–0.180) |" in text
