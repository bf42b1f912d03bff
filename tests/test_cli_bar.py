"""The progress bar: time left on a terminal, and a note beforehand when work takes long."""

from __future__ import annotations

import io
import itertools
import re
import sys
import time

import pytest

from cdcodec.cli import console
from cdcodec.cli.decode import quicker


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    return clock


def work(
    clock: Clock,
    total: int,
    pace: float,
    *,
    talk: console.Talk,
    advice: str | None = "--steps 1 is quickest",
    loading: float = 5.0,
) -> None:
    """Take a number of steps, each of so many seconds."""
    with talk.bar("decoding", unit="steps", advice=advice) as bar:
        clock.now += loading
        for done in range(1, total + 1):
            clock.now += pace
            bar(done, total)


def test_work_of_more_than_a_minute_is_told_beforehand_and_once(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with console.Talk().bar("decoding", unit="steps", advice="--steps 1 is quickest") as bar:
        clock.now += 5  # loading
        said = []
        for done in range(1, 61):
            clock.now += 3
            bar(done, 60)
            said.append(capsys.readouterr().err)
    note = "cdcodec: note: decoding takes about 4 minutes; --steps 1 is quickest\n"  # 185 s
    assert said == ["", note, *[""] * 58]


@pytest.mark.parametrize(
    ("total", "pace"),
    [(17, 3.0), (1, 90.0), (1000, 0.05), (2, 50.0)],  # of one step nothing is known beforehand
)
def test_shorter_work_and_what_is_over_are_not_told(
    clock: Clock, capsys: pytest.CaptureFixture[str], total: int, pace: float
) -> None:
    work(clock, total, pace, talk=console.Talk())
    assert capsys.readouterr().err == ""


def test_loading_is_no_measure_of_the_pace(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    work(clock, 20, 1.0, talk=console.Talk(), loading=30.0)
    assert capsys.readouterr().err == ""


def test_a_quick_start_is_watched_for_a_while(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    work(clock, 1000, 0.1, talk=console.Talk())
    assert capsys.readouterr().err.count("takes about 2 minutes") == 1


@pytest.mark.parametrize("talk", [console.Talk(quiet=True), console.Talk(json=True)])
def test_no_note_where_none_is_wanted(
    clock: Clock, capsys: pytest.CaptureFixture[str], talk: console.Talk
) -> None:
    work(clock, 100, 3.0, talk=talk)
    work(clock, 100, 3.0, talk=console.Talk(), advice=None)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("steps", "advice"),
    [
        (None, "; --steps 1 is quickest"),
        (17, "; --steps 1 is quickest"),
        (1, ""),
        (0, ""),
    ],
)
def test_one_step_is_named_unless_it_was_asked_for(
    clock: Clock, capsys: pytest.CaptureFixture[str], steps: int | None, advice: str
) -> None:
    work(clock, 100, 3.0, talk=console.Talk(), advice=quicker(steps))
    assert capsys.readouterr().err == f"cdcodec: note: decoding takes about 6 minutes{advice}\n"


@pytest.mark.parametrize("unit", ["steps", "iterations", "files", "bytes", None])
def test_a_bar_of_every_unit_tells_the_time(
    monkeypatch: pytest.MonkeyPatch, unit: str | None
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(console, "BAR_DELAY_SECONDS", 0.0)
    expected = re.compile(r"\d:\d\d" if unit is None else r"\d:\d\d left")
    deadline = time.monotonic() + 20
    with console.Talk().bar("working", unit=unit) as bar:
        for done in itertools.count():
            if expected.search(terminal.getvalue()) or time.monotonic() > deadline:
                break
            if unit is not None:
                bar(done, 10_000)
            time.sleep(0.002)
    assert expected.search(terminal.getvalue())
    assert "? left" not in terminal.getvalue()
