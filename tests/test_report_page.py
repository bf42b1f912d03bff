"""The page works in a browser, without a network and without a complaint."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, FloatRect, Locator, Page, expect, sync_playwright

from cdcodec.evaluation.report import Report, html
from tests.test_report import NASTY, case

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is on this machine")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as play:
        started = play.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=["--no-sandbox", "--disable-gpu"]
        )
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    made, originals = case(folder)
    path = folder / "report.html"
    path.write_text(html(made, folder, originals, 3), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def desktop(browser: Browser) -> Page:
    return browser.new_page(viewport={"width": 1200, "height": 900})


@pytest.fixture
def page(desktop: Page, report: str) -> Iterator[Page]:
    yield from opened(desktop, report)


@pytest.fixture
def phone(browser: Browser, report: str) -> Iterator[Page]:
    yield from opened(
        browser.new_page(viewport={"width": 360, "height": 740}, has_touch=True), report
    )


def opened(page: Page, url: str) -> Iterator[Page]:
    """Open a report; what it says on the console fails the test, and so does any request."""
    complaints: list[str] = []
    requests: list[str] = []
    listeners = {
        "console": lambda message: complaints.append(f"{message.type}: {message.text}"),
        "pageerror": lambda error: complaints.append(f"error: {error}"),
        "dialog": lambda dialog: complaints.append(f"dialog: {dialog.message}"),
        "request": lambda request: requests.append(request.url),
    }
    for event, listener in listeners.items():
        page.on(event, listener)
    page.set_default_timeout(5000)
    page.goto(url)
    yield page
    for event, listener in listeners.items():
        page.remove_listener(event, listener)
    assert complaints == []
    assert [asked for asked in requests if not asked.startswith("data:image/webp;")] == [url]


def column(page: Page, section: str, title: str) -> list[str]:
    """Return the texts of a column; rows without figures have none there."""
    return page.locator(f"#{section} table").evaluate(
        """(table, title) => {
            const heads = [...table.tHead.rows[0].cells];
            const number = heads.findIndex(head => head.innerText.startsWith(title));
            return [...table.tBodies[0].rows].map(row => row.cells[number]?.innerText ?? "");
        }""",
        title,
    )


def head(page: Page, section: str, title: str) -> Locator:
    return page.locator(f"#{section} thead button", has_text=title)


def clip(page: Page, layer: str = "layer-right") -> float:
    """Return where the divider cuts a layer, in CSS pixels from its left or right side."""
    path = page.locator(f"#{layer}").evaluate("node => node.style.clipPath")
    return max(map(float, re.findall(r"[\d.]+(?=px)", path)))


def shows(page: Page) -> list[str]:
    """Return which layers of the pane on the left can be seen."""
    layers = page.locator("#compare .layer:visible").all()
    return [str(layer.get_attribute("id")).removeprefix("layer-") for layer in layers]


def source(page: Page, layer: str) -> str:
    return page.locator(f"#layer-{layer} img").evaluate("img => img.src.slice(-400)")


def place(page: Page, layer: str) -> tuple[float, float, float]:
    """Return left, top and width of a layer's picture in the window around it."""
    return tuple(
        page.locator(f"#layer-{layer} img").evaluate("""img => {
            const [a, b] = [img.getBoundingClientRect(), img.parentNode.getBoundingClientRect()];
            return [a.left - b.left, a.top - b.top, a.width];
        }""")
    )


def window(page: Page) -> FloatRect:
    """Bring the pane with the divider into view and return where it is."""
    page.locator("#compare .window").scroll_into_view_if_needed()
    box = page.locator("#compare .window").bounding_box()
    assert box is not None
    return box


def test_the_divider_follows_the_mouse(page: Page) -> None:
    before, left_before = clip(page), clip(page, "layer-left")
    box = window(page)
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 30, middle, steps=3)
    page.mouse.up()
    page.mouse.move(box["x"], middle)
    assert clip(page) == pytest.approx(before + 30, abs=2)
    assert clip(page, "layer-left") == pytest.approx(left_before - 30, abs=2)
    assert int(page.locator("#wipe").input_value()) > 60


def test_the_divider_follows_the_keys_of_the_slider(page: Page) -> None:
    before, picture = clip(page), page.locator("#picture").input_value()
    page.locator("#wipe").focus()
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    assert page.locator("#wipe").input_value() == "45"
    assert clip(page) < before
    page.keyboard.press("End")
    assert shows(page) == ["left", "right"]
    assert page.locator("#wipe").input_value() == "100"
    assert page.locator("#picture").input_value() == picture


def test_a_table_sorts_by_numbers_with_missing_values_last(page: Page) -> None:
    for _ in range(2):
        head(page, "averages", "FID").click()
        assert column(page, "averages", "FID") == ["80.3", *["–"] * 5]
    head(page, "rows", "Bytes").click()
    rising = [int(text) for text in column(page, "rows", "Bytes")[:17]]
    assert rising == sorted(rising)
    assert rising[0] == 300
    assert rising[-1] == 602
    assert column(page, "rows", "Bytes")[17].startswith("out of reach: the smallest file has 999")
    head(page, "rows", "Bytes").click()
    falling = column(page, "rows", "Bytes")
    assert [int(text) for text in falling[:17]] == sorted(rising, reverse=True)
    assert falling[17].startswith("out of reach")


def test_a_table_sorts_by_keyboard_and_says_so(page: Page) -> None:
    head(page, "averages", "PSNR").focus()
    page.keyboard.press("Enter")
    assert page.locator("#averages th[aria-sort]").count() == 1
    assert page.locator("#averages th[aria-sort=descending]").inner_text().startswith("PSNR ↑ dB")
    falling = [float(text) for text in column(page, "averages", "PSNR")]
    assert falling == sorted(falling, reverse=True)
    page.keyboard.press("Space")
    assert column(page, "averages", "PSNR") == [f"{value:.2f}" for value in reversed(falling)]
    head(page, "averages", "LPIPS").click()
    assert page.locator("#averages th[aria-sort=ascending]").inner_text().startswith("LPIPS ↓")


def test_the_best_value_of_a_target_is_bold_among_codecs_that_reached_it_whole(page: Page) -> None:
    bold = page.locator("#averages td.best").all_inner_texts()
    assert bold == ["28.00", "0.350", "29.00", "0.250"]
    assert column(page, "averages", "Pictures")[:3] == ["3 of 3", "3 of 3", "2 of 3"]
    assert column(page, "deltas", "Rate") == ["−12.3", "–", "+9.0"]
    assert column(page, "deltas", "Overlap")[0] == "0.100 – 0.200"
    assert column(page, "deltas", "Note")[1] == "no overlap"


def test_rows_filter_by_picture_codec_and_target(page: Page) -> None:
    page.locator("#rows .filters select").nth(1).select_option("jpeg")
    page.locator("#rows .filters select").nth(2).select_option("0.1")
    assert column(page, "rows", "Codec") == ["jpeg"] * 3
    assert set(column(page, "rows", "Target")) == {"0.1"}
    page.locator("#rows .filters select").nth(0).select_option(NASTY)
    assert column(page, "rows", "Picture") == [NASTY]
    assert page.locator("#rows .count").inner_text() == "1 row"


def test_picture_target_and_codecs_are_chosen(page: Page) -> None:
    assert page.locator("#compare .tag").all_inner_texts() == ["ours, 1 step", "jpeg"]
    seen = {source(page, "left"), source(page, "right"), source(page, "beside")}
    assert len(seen) == 3
    page.locator("#target").select_option("0.2 bpp")
    page.locator("#left").select_option("ours, 5 steps")
    seen |= {source(page, "left"), source(page, "right")}
    assert len(seen) == 5
    figures = page.locator("#figures").inner_text()
    for text in ("0.2 bpp", "ours, 5 steps", "600", "0.1990", "25.00", "24.50", "PSNR ↑ dB"):
        assert text in figures
    page.locator("#right").select_option("Original")
    assert source(page, "right") == source(page, "beside")
    page.locator("#picture").select_option(NASTY)
    assert source(page, "beside") not in seen
    page.wait_for_function("document.querySelector('#layer-left img').naturalWidth === 192")


def test_arrow_keys_turn_to_the_next_picture(page: Page) -> None:
    page.locator("#compare .window").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#picture").input_value() == "1"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#picture").input_value() == "2"
    page.locator("#next").click()
    assert page.locator("#picture").input_value() == "0"


def test_out_of_reach_stands_in_place_of_the_picture(page: Page) -> None:
    page.locator("#picture").select_option("chelsea.png")
    message = page.locator("#layer-right p")
    assert message.inner_text() == "jpeg, out of reach: the smallest file has 999 bytes"
    assert not page.locator("#layer-right img").is_visible()
    assert page.locator("#right option:checked").inner_text() == "jpeg (out of reach)"
    page.locator("#target").select_option("0.2 bpp")
    assert not message.is_visible()
    assert page.locator("#layer-right img").is_visible()


def test_a_row_leads_to_its_picture_in_the_viewer(page: Page) -> None:
    row = page.locator("#rows tbody tr", has_text="chelsea.png").filter(has_text="5 steps").last
    row.locator("button").click()
    assert page.locator("#picture option:checked").inner_text() == "chelsea.png"
    assert page.locator("#target option:checked").inner_text() == "0.2 bpp"
    assert page.locator("#compare .tag").all_inner_texts() == ["ours, 1 step", "ours, 5 steps"]


def test_blinking_shows_left_right_and_original_in_turn(page: Page) -> None:
    page.locator("#interval").select_option("0.4 s")
    page.locator("#compare .window").focus()
    assert shows(page) == ["left", "right"]
    page.keyboard.press("b")
    assert page.locator("#blink").get_attribute("aria-pressed") == "true"
    for layer in ("left", "right", "original", "left"):
        page.wait_for_function(
            "id => !document.getElementById(id).hidden"
            " && document.querySelectorAll('#compare .layer:not([hidden])').length === 1",
            arg=f"layer-{layer}",
        )
    page.keyboard.press("b")
    assert shows(page) == ["left", "right"]
    assert page.locator("#blink").get_attribute("aria-pressed") == "false"


def test_nothing_blinks_by_itself_for_who_wants_no_motion(page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")
    expect(page.locator("#blink")).to_have_text("Blink by hand")
    seen = []
    for _ in range(4):
        page.locator("#blink").click()
        seen.append(shows(page))
    assert seen == [["left"], ["right"], ["original"], ["left", "right"]]
    page.locator("#blink").click()
    page.wait_for_timeout(800)  # longer than the interval
    assert shows(page) == ["left"]
    page.emulate_media(reduced_motion="no-preference")
    expect(page.locator("#blink")).to_have_text("Blink")


def test_zoom_enlarges_all_panes_and_pans_them_in_step(page: Page) -> None:
    assert place(page, "left")[2] == 192
    rendering = "img => getComputedStyle(img).imageRendering"
    assert page.locator("#layer-left img").evaluate(rendering) == "auto"
    page.locator("#zoom button", has_text="4x").click()
    assert page.locator("#layer-left img").evaluate(rendering) == "pixelated"
    start = place(page, "left")
    assert start[2] == 768
    box = window(page)
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 70, steps=4)
    page.mouse.up()
    dragged = place(page, "left")
    assert dragged[:2] == pytest.approx((start[0] + 40, start[1] + 20), abs=2)
    before = page.locator("#layer-left img").evaluate("img => img.style.transform")
    page.mouse.wheel(0, 30)
    page.wait_for_function(
        "before => document.querySelector('#layer-left img').style.transform !== before",
        arg=before,
    )
    assert place(page, "left") == place(page, "right") == place(page, "beside")
    for _ in range(30):
        page.keyboard.press("Shift+ArrowRight")
    assert place(page, "left")[0] + 768 == pytest.approx(box["width"] - 2, abs=1)
    page.locator("#zoom button", has_text="fit").click()
    assert place(page, "left")[2] == 192


def test_a_phone_shows_all_of_it_without_scrolling_sideways(phone: Page) -> None:
    assert phone.evaluate("document.documentElement.scrollWidth") == 360
    assert not phone.locator("#aside").is_visible()
    phone.locator("#beside").check()
    above = phone.locator("#compare").bounding_box()
    below = phone.locator("#aside").bounding_box()
    assert above is not None
    assert below is not None
    assert below["y"] > above["y"] + above["height"] - 1


def test_a_page_without_pictures_or_rows_opens(desktop: Page, tmp_path: Path) -> None:
    made, _ = case(tmp_path)
    for number, report in enumerate((made, Report("Nothing", [], [], [], [], {}, ""))):
        path = tmp_path / f"{number}.html"
        path.write_text(html(report, tmp_path, {}, 6), encoding="utf-8")
        for page in opened(desktop, path.as_uri()):
            assert page.locator("#embedded").inner_text() == "No pictures are in this page."
            assert not page.locator("#workbench").is_visible()
