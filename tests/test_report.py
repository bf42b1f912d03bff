"""The page of a comparison holds all that it needs, each picture once, and any name."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data

from cdcodec.errors import InputError
from cdcodec.evaluation.bjontegaard import Delta
from cdcodec.evaluation.metrics import Metric
from cdcodec.evaluation.report import WEBP_MAX_SIDE, Report, html, spread
from cdcodec.evaluation.rows import OUT_OF_REACH, Row
from cdcodec.evaluation.summary import points

METRICS = [
    Metric("psnr", "PSNR", unit="dB", digits=2),
    Metric("lpips", "LPIPS", higher_is_better=False),
    Metric("fid", "FID", higher_is_better=False, digits=1, whole=True),
]
NASTY = "</script><img src=x onerror=alert(1)><!--.png"
SOURCES = {"astronaut.png": data.astronaut, NASTY: data.coffee, "chelsea.png": data.chelsea}
WIDTH, HEIGHT = 192, 128
PLOTS = '<svg viewBox="0 0 9 9" width="9" id="drawn"><path d="M0 9L9 0" style="stroke:red"/></svg>'


def crop(name: str) -> Image.Image:
    return Image.fromarray(SOURCES[name]()[40 : 40 + HEIGHT, 60 : 60 + WIDTH])


def case(folder: Path) -> tuple[Report, dict[str, Path]]:
    """Write pictures and return a report on them: jpeg is out of reach of chelsea at 0.1 bpp."""
    originals, rows = {}, []
    (folder / "pictures").mkdir()
    for number, name in enumerate(SOURCES):
        img = crop(name)
        originals[name] = folder / f"original-{number}.png"
        img.save(originals[name])
        for bpp in (0.1, 0.2):
            for codec, steps, psnr in (("ours", 1, 24.0), ("ours", 5, 23.0), ("jpeg", None, 22.5)):
                row = Row(name, f"{number:016}", WIDTH, HEIGHT, codec, "1", bpp, steps)
                if codec == "jpeg" and bpp == 0.1 and name == "chelsea.png":
                    note = "the smallest file has 999 bytes"
                    rows.append(dataclasses.replace(row, status=OUT_OF_REACH, note=note))
                    continue
                path = f"pictures/{number}-{codec}-{steps}-{bpp}.png"
                quality = {1: 55, 5: 30, None: 5}[steps] + int(100 * bpp)
                buffer = io.BytesIO()
                img.save(buffer, "JPEG", quality=quality)
                Image.open(buffer).save(folder / path)
                scores = {
                    "psnr": psnr + 3 * number + 10 * bpp,
                    "lpips": None if number == 1 else 0.5 - 0.01 * (steps or 0) - bpp,
                }
                rows.append(
                    dataclasses.replace(
                        row,
                        file_bytes=int(bpp * 3000) + number,
                        bpp=bpp - 0.001,
                        scores=scores,
                        encode_seconds={"all": 0.5, "more": 0.25},
                        decode_seconds={"all": 0.1 * (steps or 0.01)},
                        picture=path,
                    )
                )
    deltas = [
        Delta("ours, 1 step", "jpeg", "psnr", -12.34, 1.5, 0.1, 0.2, "", 0.11, 0.19, 2, 2, 3),
        Delta("ours, 5 steps", "jpeg", "psnr", None, None, None, None, "no overlap"),
        Delta("ours, 1 step", "jpeg", "lpips", 9.0, 0.02, 0.1, 0.2, "", 0.11, 0.19, 2, 2, 3),
    ]
    whole = {("ours, 1 step", 0.1): {"fid": 80.25}}
    settings = {"command": "cdcodec eval <folder> --codec 'ours'", "machine": "2 cores"}
    report = Report("Ours & <others>", rows, points(rows, whole), deltas, METRICS, settings, PLOTS)
    return report, originals


class Reader(HTMLParser):
    """Collects elements, and the text of scripts and styles by id or name."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.elements.append((f"/{tag}", {}))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.elements[-1] if self.elements else ("", {})
        key = attributes.get("id") or attributes.get("type") or tag
        self.texts[key] = self.texts.get(key, "") + data

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.texts["data"])

    def image(self, number: int) -> Image.Image:
        head, body = self.texts[f"image-{number}"].split(",")
        assert head == "data:image/webp;base64"
        return Image.open(io.BytesIO(base64.b64decode(body)))

    @property
    def images(self) -> list[str]:
        return [key for key in self.texts if key.startswith("image-")]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    report, originals = case(folder)
    return html(report, folder, originals, 3)


def test_the_page_asks_for_nothing_from_outside(page: str) -> None:
    for tag, attributes in Reader(page).elements:
        assert tag not in ("link", "iframe", "object", "base")
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")
    assert not re.search(r"https?://|@import|url\(|fetch\(|import\(", page)


def test_the_policy_allows_this_script_and_no_other(page: str) -> None:
    reader = Reader(page)
    policy = next(a["content"] for _, a in reader.elements if "http-equiv" in a)
    assert policy is not None
    digest = base64.b64encode(hashlib.sha256(reader.texts["module"].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert f"script-src 'sha256-{digest}';" in policy
    assert all(not key.startswith("on") for _, attributes in reader.elements for key in attributes)


def test_names_are_text_whatever_is_in_them(page: str) -> None:
    reader = Reader(page)
    assert NASTY in [picture["name"] for picture in reader.data["pictures"]]
    assert "onerror" not in page.replace(json.dumps(NASTY)[1:-1].replace("<", "\\u003c"), "")
    assert "<title>Ours &amp; &lt;others&gt;</title>" in page
    assert "cdcodec eval &lt;folder&gt; --codec &#x27;ours&#x27;" in page


def test_a_name_with_bytes_that_are_no_text_can_be_written(tmp_path: Path) -> None:
    report, _ = case(tmp_path)
    stray = "a\udcff.png"
    rows = [dataclasses.replace(report.rows[0], image=stray, picture="")]
    changed = dataclasses.replace(report, rows=rows, settings={"command": stray})
    page = html(changed, tmp_path, {}, 0).encode()
    assert Reader(page.decode()).data["pictures"][0]["name"] == stray


def test_placeholders_in_data_stay_as_they_are(tmp_path: Path) -> None:
    report, originals = case(tmp_path)
    page = html(dataclasses.replace(report, title="costs $data"), tmp_path, originals, 0)
    assert "<h1>costs $data</h1>" in page


def test_plots_are_placed_as_they_are(page: str) -> None:
    assert page.count(PLOTS) == 1


def test_every_picture_shown_is_embedded_at_high_quality(page: str) -> None:
    reader = Reader(page)
    for picture in reader.data["pictures"]:
        shown = np.asarray(reader.image(picture["original"]), np.int16)
        error = shown - np.asarray(crop(picture["name"]), np.int16)
        assert 10 * math.log10(255**2 / np.mean(error.astype(float) ** 2)) > 35
    reached = [row for row in reader.data["rows"] if row["reached"]]
    assert len(reached) == 17
    assert all(reader.image(row["image"]).size == (WIDTH, HEIGHT) for row in reached)
    assert len(reader.images) == 3 + 17
    assert 'data-quality="95"' in page


def test_equal_pictures_are_embedded_once(tmp_path: Path) -> None:
    report, originals = case(tmp_path)
    same = report.rows[0].picture
    rows = [dataclasses.replace(row, picture=same) if row.picture else row for row in report.rows]
    page = html(dataclasses.replace(report, rows=rows), tmp_path, originals, 3)
    assert len(Reader(page).images) == 3 + 1


def test_pictures_for_the_viewer_are_spread_over_the_set(tmp_path: Path) -> None:
    names = [f"{k:02}" for k in range(24)]
    assert spread(names, 4) == ["00", "06", "12", "18"]
    assert spread(names, 5) == ["00", "04", "09", "14", "19"]
    assert spread(names, 99) == names
    assert spread(names, 0) == []
    assert spread([], 3) == []
    report, originals = case(tmp_path)
    reader = Reader(html(report, tmp_path, originals, 1))
    assert [p["original"] is not None for p in reader.data["pictures"]] == [True, False, False]
    assert {row["picture"] for row in reader.data["rows"] if row["image"] is not None} == {
        "astronaut.png"
    }


def test_a_picture_that_webp_cannot_hold_or_that_is_gone_is_not_viewed(tmp_path: Path) -> None:
    report, originals = case(tmp_path)
    del originals[NASTY]
    rows = [
        dataclasses.replace(row, width=WEBP_MAX_SIDE + 1) if row.image == "astronaut.png" else row
        for row in report.rows
    ]
    reader = Reader(html(dataclasses.replace(report, rows=rows), tmp_path, originals, 3))
    assert [p["original"] is not None for p in reader.data["pictures"]] == [False, False, True]


def test_a_picture_file_that_is_missing_is_an_input_error(tmp_path: Path) -> None:
    report, originals = case(tmp_path)
    (tmp_path / report.rows[0].picture).unlink()
    with pytest.raises(InputError, match="cannot read"):
        html(report, tmp_path, originals, 3)
    assert html(report, tmp_path, originals, 0)


def test_rows_out_of_reach_have_their_note_and_no_figures(page: str) -> None:
    (row,) = [row for row in Reader(page).data["rows"] if not row["reached"]]
    assert row["note"] == "the smallest file has 999 bytes"
    assert [row[key] for key in ("bytes", "bpp", "encode", "decode", "image")] == [None] * 5


def test_averages_say_how_many_pictures_reached_the_target(page: str) -> None:
    averages = Reader(page).data["points"]
    assert [(p["pictures"], p["of"]) for p in averages if p["curve"] == "jpeg"] == [(2, 3), (3, 3)]
    assert [p["scores"].get("fid") for p in averages if p["target"] == 0.1] == [80.25, None, None]


def test_values_that_are_no_numbers_are_missing(tmp_path: Path) -> None:
    report, originals = case(tmp_path)
    rows = [dataclasses.replace(row, scores={"psnr": math.inf}) for row in report.rows]
    reader = Reader(html(dataclasses.replace(report, rows=rows), tmp_path, originals, 0))
    assert all(row["scores"] == {"psnr": None} for row in reader.data["rows"])


def test_a_report_on_nothing_is_a_page(tmp_path: Path) -> None:
    page = html(Report("Nothing", [], [], [], [], {}, ""), tmp_path, {}, 6)
    assert Reader(page).data["rows"] == []
