"""Plots show what was reached and are the same every time."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from cdcodec.errors import InputError
from cdcodec.evaluation import plots
from cdcodec.evaluation.metrics import Metric
from cdcodec.evaluation.summary import Point

PSNR = Metric("psnr", "PSNR", "dB")
LPIPS = Metric("lpips", "LPIPS", higher_is_better=False)
FID = Metric("fid", "FID", higher_is_better=False, whole=True)
NAMESPACE = "{http://www.w3.org/2000/svg}"


def point(
    target: float,
    scores: Mapping[str, float | None],
    pictures: int = 4,
    *,
    codec: str = "avif",
    steps: int | None = None,
) -> Point:
    curve = codec if steps is None else f"{codec}, {steps} steps"
    bpp = 0.99 * target if pictures else None
    return Point(curve, codec, steps, target, pictures, 4, bpp, scores, 0.1, 0.1)


CODECS = [
    point(
        target, {"psnr": 30 + 10 * target + steps, "lpips": 0.5 - target}, codec="cdc", steps=steps
    )
    for steps in (2, 5)
    for target in (0.03, 0.1, 0.2)
]
CODECS += [point(target, {"psnr": 31 + 10 * target}) for target in (0.1, 0.2)]


def texts(svg: str) -> list[str]:
    elements = ElementTree.fromstring(svg).iter(f"{NAMESPACE}text")
    return ["".join(element.itertext()).strip() for element in elements]


def markers(svg: str, colour: str) -> list[str]:
    """Return the fills of the markers that are drawn with a colour."""
    return re.findall(rf'<use [^>]*style="fill: (#\w+); stroke: {colour}', svg)


def test_every_metric_with_values_has_a_panel_and_every_curve_a_name() -> None:
    found = texts(plots.svg(CODECS, [PSNR, FID, LPIPS]))
    assert {"PSNR, dB ↑", "LPIPS ↓"} <= set(found)
    assert not any("FID" in text for text in found)
    assert [found.count(name) for name in ("cdc, 2 steps", "cdc, 5 steps", "avif")] == [1, 1, 1]


def test_rates_are_plain_numbers() -> None:
    found = texts(plots.svg(CODECS, [PSNR]))
    assert [text for text in found if text.startswith("0.")] == ["0.03", "0.05", "0.1", "0.2"]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.05, 0.2, [0.05, 0.1, 0.2]),
        (0.0999, 0.1, [0.1]),
        (0.069, 0.071, [0.069]),
        (0.01, 0.5, [0.01, 0.02, 0.05, 0.1, 0.2, 0.5]),
        (0.01, 10, [0.01, 0.1, 1, 10]),
    ],
)
def test_ticks_are_few_and_round(low: float, high: float, ticks: list[float]) -> None:
    assert plots._ticks(low, high) == ticks


def test_the_file_can_stand_within_a_page() -> None:
    svg = plots.svg(CODECS, [PSNR])
    assert svg.startswith("<svg ")
    assert '<style type="text/css">#figure_1 *{' in svg
    assert "<metadata>" not in svg


def test_the_same_points_give_the_same_file() -> None:
    assert plots.svg(CODECS, [PSNR, LPIPS]) == plots.svg(CODECS, [PSNR, LPIPS])


def test_settings_of_the_user_neither_show_nor_change() -> None:
    plain = plots.svg(CODECS, [PSNR])
    with mpl.rc_context({"lines.linewidth": 9, "font.size": 30}):
        before = dict(mpl.rcParams)
        assert plots.svg(CODECS, [PSNR]) == plain
        assert dict(mpl.rcParams) == before


def test_codecs_with_steps_are_coloured_and_others_grey() -> None:
    svg = plots.svg(CODECS, [PSNR])
    assert all(markers(svg, colour) for colour in (*plots.STRONG[:2], plots.GREYS[0]))
    assert not any(markers(svg, colour) for colour in (*plots.STRONG[2:], *plots.GREYS[1:]))


def test_means_over_some_of_the_pictures_are_hollow_and_on_no_line() -> None:
    remark = "hollow: only some of the pictures"
    grey = plots.GREYS[0]
    whole = plots.svg(CODECS, [PSNR])
    assert remark not in texts(whole)
    assert set(markers(whole, grey)) == {grey}
    some = plots.svg([*CODECS, point(0.05, {"psnr": 35.0}, 3)], [PSNR])
    assert remark in texts(some)
    assert markers(some, grey).count("#ffffff") == 1

    paths = [re.findall(rf'd="([^"]*)"[^>]*stroke: {grey}', svg) for svg in (some, whole)]
    longest = [max(path.count("L") for path in found) for found in paths]
    assert longest[0] == longest[1]


@pytest.mark.parametrize("pictures", [0, 1])
def test_what_fewer_than_half_of_the_pictures_reached_is_not_drawn(pictures: int) -> None:
    scores = {"psnr": 35.0} if pictures else {}
    assert plots.svg([*CODECS, point(0.05, scores, pictures)], [PSNR]) == plots.svg(CODECS, [PSNR])


def test_nothing_to_draw_is_empty() -> None:
    assert plots.svg([], [PSNR]) == ""
    assert plots.svg([point(0.1, {"psnr": None})], [PSNR]) == ""


def test_many_curves_and_panels_and_a_single_point_can_be_drawn() -> None:
    metrics = [Metric(f"m{k}", f"M{k}") for k in range(7)]
    scores: dict[str, float | None] = {metric.name: 1.0 for metric in metrics}
    many = [point(0.1, scores, codec=f"codec {k}", steps=k % 2 or None) for k in range(20)]
    assert len([text for text in texts(plots.svg(many, metrics)) if "codec" in text]) == 20


def test_a_label_is_text_and_no_formula() -> None:
    assert "a$1$b" in texts(plots.svg([point(0.1, {"psnr": 1.0}, codec="a$1$b")], [PSNR]))


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match="matplotlib") as caught:
        plots.svg(CODECS, [PSNR])
    assert caught.value.hint == "in a checkout of cdcodec: pip install '.[eval]'"
