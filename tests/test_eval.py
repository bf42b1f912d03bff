"""`cdcodec eval`: real files measured once, whatever happens, and reported as they are."""

from __future__ import annotations

import csv
import dataclasses
import json
import mmap
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from cdcodec import api, families
from cdcodec.cli.__main__ import main
from cdcodec.codec import Pixels
from cdcodec.errors import InputError
from cdcodec.evaluation import anchors, codecs, datasets, lines, memory, rows, run, whole, work
from cdcodec.evaluation.contender import Compressed, OutOfReach, Restored, Unavailable
from cdcodec.evaluation.own import Model
from cdcodec.evaluation.rows import OK, OUT_OF_REACH, Row
from cdcodec.evaluation.run import Plan

ROOT = Path(__file__).parent.parent
WEBP_BPP = 2.0
"""What it can do for pictures so small."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two small photographs."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.fromarray(data.coffee()[100:164, 200:296]).save(pictures / "coffee.png")
    Image.fromarray(data.astronaut()[:64, 180:276]).save(pictures / "astronaut.png")
    return pictures


class Halving:
    """A codec whose files are as long as they may be, and which counts its work."""

    suffix = ".half"
    label = "halving"

    def __init__(self) -> None:
        self.takes_steps = False
        self.steps: tuple[int, ...] = ()
        self.version = "1"
        self.files = self.pictures = 0
        self.fault = ""
        self.fails_at: int | None = None
        self.part = 1.0

    def check_steps(self, steps: Sequence[int]) -> None:
        pass

    def encode(self, pixels: Pixels, bpp: float) -> Compressed:
        if self.files == self.fails_at:
            raise KeyboardInterrupt
        if self.fault:
            raise InputError(self.fault)
        if bpp < 0.5:
            raise OutOfReach("too little", hint="half a bit")
        self.files += 1
        length = int(self.part * bpp * pixels[..., 0].size / 8)
        return Compressed(pixels.tobytes()[:length], "part=1", {"encode": 0.5})

    def decode(self, data: bytes, steps: int | None) -> Restored:
        assert (steps is None) != self.takes_steps
        self.pictures += 1
        flat = np.frombuffer(data, np.uint8)[: 64 * 96].mean()
        return Restored(np.full((64, 96, 3), flat, np.uint8), {"decode": 0.25})


@pytest.fixture
def halving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Halving]:
    codec = Halving()
    monkeypatch.setattr(codecs, "create", lambda _specification, _device="auto": codec)
    work.contender.cache_clear()
    yield codec
    work.contender.cache_clear()


def plan_for(folder: Path, *targets: float, metrics: tuple[str, ...] = ("psnr",)) -> Plan:
    return Plan(
        sources=datasets.find([folder])[0],
        codecs=["halving"],
        targets=targets,
        steps=[1, 5],
        metrics=metrics,
        device="cpu",
        folder=folder.parent / "report",
    )


def evaluate(folder: Path, *arguments: str) -> int:
    report = str(folder.parent / "report")
    return main(["eval", str(folder), "-o", report, "--metrics", "psnr,ssim", *arguments])


def test_every_point_is_a_file_that_was_decoded(folder: Path) -> None:
    tiny = api.encode(folder / "coffee.png", quality=100, model="cdc-tiny").bpp
    targets = f"{WEBP_BPP:g},{1.01 * tiny:g}"
    code = evaluate(
        folder, "--codec", "cdc-tiny", "--codec", "webp", "--bpp", targets, "--steps", "2,1"
    )
    assert code == 0
    report = folder.parent / "report"
    found = rows.read(report / "rows.jsonl")
    assert len(found) == 2 * 2 * (2 + 1)
    measured = [row for row in found if row.status == OK]
    assert {row.curve for row in measured} == {"cdc-tiny, 1 step", "cdc-tiny, 2 steps", "webp"}
    for row in measured:
        assert (report / row.file).stat().st_size == row.file_bytes
        assert row.bpp == pytest.approx(8 * row.file_bytes / (96 * 64))
        assert (1 - work.TOLERANCE) * row.target_bpp <= row.bpp <= row.target_bpp
        original, decoded = (
            np.asarray(Image.open(path), np.float64)
            for path in (folder / row.image, report / row.picture)
        )
        error = np.square(original - decoded).mean()
        assert row.scores["psnr"] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-6)
        assert sum(row.encode_seconds.values()) > 0
        assert sum(row.decode_seconds.values()) > 0
    with Image.open(report / next(r.file for r in measured if r.codec == "webp")) as webp:
        assert webp.format == "WEBP"


def test_the_report_has_a_page_a_table_curves_and_rows(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(folder, "--codec", "webp", "--codec", "jpeg", "--bpp", "1.5,2", "--json") == 0
    report = folder.parent / "report"
    said = json.loads(capsys.readouterr().out)
    assert said["output"] == str(report / "index.html")
    assert {point["curve"] for point in said["points"]} == {"webp", "jpeg"}
    page = (report / "index.html").read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>")
    assert "### 2 bpp" in (report / "table.md").read_text(encoding="utf-8")
    assert (report / "curves.svg").read_text(encoding="utf-8").startswith("<svg")
    lines = list(csv.DictReader((report / "rows.csv").read_text(encoding="utf-8").splitlines()))
    assert len(lines) == 2 * 2 * 2
    assert {"image", "codec", "target_bpp", "file_bytes", "bpp", "psnr"} <= lines[0].keys()


def test_a_run_that_was_interrupted_goes_on_where_it_was(folder: Path, halving: Halving) -> None:
    plan = plan_for(folder, 1.0, 2.0)
    halving.fails_at = 3
    with pytest.raises(KeyboardInterrupt):
        run.measure(plan)
    assert len(run.wanted(plan)) == 3
    halving.fails_at = None
    seen: list[tuple[int, int]] = []
    run.measure(plan, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 4), (4, 4)]
    assert halving.files == 4
    assert len(run.wanted(plan)) == 4


@pytest.mark.parametrize(
    "damage", [b"", b"nonsense\n", b'{"image": "of another version"}\n', b'{"i']
)
def test_what_a_report_says_unintelligibly_is_measured_again(
    folder: Path, halving: Halving, damage: bytes
) -> None:
    plan = plan_for(folder, 1.0)
    run.measure(plan)
    path = plan.folder / run.ROWS
    first, second = path.read_bytes().splitlines()
    path.write_bytes(first + b"\n" + damage + second[:-20])
    run.measure(plan)
    assert halving.files == 3
    assert len(run.wanted(plan)) == 2
    assert len(rows.read(path)) == 2


def test_what_is_there_is_not_made_again_for_another_metric(folder: Path, halving: Halving) -> None:
    run.measure(plan_for(folder, 1.0))
    both = plan_for(folder, 1.0, metrics=("ssim", "psnr"))
    run.measure(both)
    run.measure(plan_for(folder, 1.0))
    assert (halving.files, halving.pictures) == (2, 2)
    assert all(row.scores.keys() == {"psnr", "ssim"} for row in run.wanted(both))


def test_another_number_of_steps_decodes_the_same_file(folder: Path, halving: Halving) -> None:
    halving.takes_steps = True
    plan = plan_for(folder, 1.0)
    run.measure(dataclasses.replace(plan, steps=[1]))
    run.measure(plan)
    assert (halving.files, halving.pictures) == (2, 4)


def test_files_that_are_gone_are_made_again(folder: Path, halving: Halving) -> None:
    plan = plan_for(folder, 1.0)
    run.measure(plan)
    row = run.wanted(plan)[0]
    (plan.folder / row.picture).unlink()
    run.measure(plan)
    assert (halving.files, halving.pictures) == (2, 3)
    (plan.folder / row.file).unlink()
    run.measure(plan)
    assert (halving.files, halving.pictures) == (3, 4)


def test_a_row_names_its_own_files_whatever_was_measured_since(
    folder: Path, halving: Halving
) -> None:
    plan = plan_for(folder, 1.0, 1.0000001)
    run.measure(plan)
    before = run.wanted(plan)
    halving.version = "2"
    halving.part = 0.95
    run.measure(plan)
    halving.version = "1"
    assert run.wanted(plan) == before
    every = [*before, *rows.read(plan.folder / run.ROWS)]
    assert len({row.file for row in every}) == 8
    for row in every:
        assert (plan.folder / row.file).stat().st_size == row.file_bytes


def test_what_fails_is_told_from_what_is_out_of_reach_and_tried_again(
    folder: Path, halving: Halving, capsys: pytest.CaptureFixture[str]
) -> None:
    halving.fault = "no space left on device"
    assert evaluate(folder, "--codec", "halving", "--bpp", "1") == 3
    said = capsys.readouterr()
    assert "2 of 2 measurements failed, the first halving on astronaut.png: no space" in said.err
    assert (folder.parent / "report" / "index.html").exists()
    halving.fault = ""
    assert evaluate(folder, "--codec", "halving", "--bpp", "1") == 0
    assert halving.files == 2


def test_rows_of_other_plans_stay_out_of_the_report(folder: Path, halving: Halving) -> None:
    run.measure(plan_for(folder, 1.0, 2.0))
    assert {row.target_bpp for row in run.wanted(plan_for(folder, 2.0))} == {2.0}


def test_a_target_out_of_reach_is_no_point(folder: Path, halving: Halving) -> None:
    plan = plan_for(folder, 0.1, 1.0)
    run.measure(plan)
    low = [row for row in run.wanted(plan) if row.target_bpp == 0.1]
    assert [row.status for row in low] == [OUT_OF_REACH] * 2
    assert low[0].note == "too little: half a bit"
    assert low[0].bpp is None
    assert not low[0].scores


@pytest.mark.parametrize(
    ("part", "status"), [(0.95, OK), (0.85, OUT_OF_REACH), (1.05, OUT_OF_REACH)]
)
def test_a_file_of_another_size_is_no_point(
    folder: Path, halving: Halving, part: float, status: str
) -> None:
    halving.part = part
    plan = plan_for(folder, 1.0)
    run.measure(plan)
    assert {row.status for row in run.wanted(plan)} == {status}


def test_several_processes_measure_the_same(folder: Path) -> None:
    plans = [
        dataclasses.replace(
            plan_for(folder, WEBP_BPP), codecs=["webp", "jpeg"], folder=folder.parent / name
        )
        for name in ("one", "two")
    ]
    run.measure(plans[0])
    run.measure(plans[1], jobs=2)

    def plain(plan: Plan) -> list[tuple[object, ...]]:
        return [(row.key, row.file_bytes, row.scores, row.setting) for row in run.wanted(plan)]

    assert plain(plans[0]) == plain(plans[1])
    assert len(plain(plans[0])) == 4


def test_a_codec_that_cannot_run_here_is_left_out_with_a_note(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    create = anchors.create

    def without_jxl(name: str, options: dict[str, str]) -> object:
        if name == "jxl":
            raise Unavailable("cjxl is not on PATH")
        return create(name, options)

    monkeypatch.setattr(anchors, "create", without_jxl)
    assert evaluate(folder, "--codec", "webp", "--codec", "jxl", "--bpp", "2") == 0
    assert "note: jxl is left out: cjxl is not on PATH" in capsys.readouterr().err
    assert evaluate(folder, "--codec", "jxl") == 3


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--codec", "web"), 3, "no codec is called web"),
        (("--codec", "cdc-tiny:colour=1"), 3, "cdc-tiny has no option colour"),
        (("--codec", "cdc-tiny:seed=x"), 3, "seed of cdc-tiny must be a number, not x"),
        (("--metrics", "psnr,dists"), 6, "dists"),
        (("--metrics", "beauty"), 3, "unknown metric 'beauty'"),
        (("--tasks", "poems"), 3, "poems"),
        (("--bpp", "0.1,x"), 2, "'0.1,x' is not a list of numbers, with commas"),
        (("--bpp", "0"), 2, "not a list"),
        (("--steps", "1001"), 2, "not a list"),
        (("--codec", "cdc-tiny:steps=2/two"), 3, "0/2/5"),
        (("--codec", "cdc-tiny:steps=0"), 3, "ddim of cdc-tiny takes 1 to 1000 steps, not 0"),
        (
            ("--codec", "cdc-tiny", "--steps", "5,0,1"),
            3,
            "hint: try --codec cdc-tiny:steps=1/5",
        ),
        (
            ("--codec", "webp", "--codec", "rdeic-tiny:decoder=direct"),
            3,
            "direct of rdeic-tiny takes only 0 steps, not 1, 5",
        ),
        (("--codec", "webp", "--reference", "jpeg"), 3, "jpeg"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_measured(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    assert evaluate(folder, *arguments) == code
    assert said in capsys.readouterr().err
    assert not (folder.parent / "report").exists()


def test_numbers_of_steps_matter_to_codecs_that_have_steps_only(folder: Path) -> None:
    assert evaluate(folder, "--codec", "webp", "--bpp", f"{WEBP_BPP:g}", "--steps", "0") == 0


def test_a_report_that_is_complete_needs_no_networks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--codec", "cdc-tiny:steps=1", "--bpp", "8"]  # out of reach, so quickly done
    assert evaluate(folder, *arguments) == 0

    def load_codec(*_arguments: object) -> None:
        raise AssertionError("networks are loaded")

    monkeypatch.setattr(families, "load_codec", load_codec)
    assert evaluate(folder, *arguments) == 0


def test_a_missing_library_is_said_before_anything_is_measured(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert evaluate(folder, "--codec", "jpeg", "--bpp", "2") == 3
    assert "matplotlib is not installed" in capsys.readouterr().err
    assert not (folder.parent / "report" / run.ROWS).exists()


def test_options_of_a_model_name_a_curve_of_its_own() -> None:
    model = Model("cdc-tiny", {"seed": "3", "stochasticity": "0.5"}, "cpu")
    assert model.label == "cdc-tiny:seed=3,stochasticity=0.5"
    assert model.decoding.seed == 3
    assert model.decoding.stochasticity == 0.5


def test_a_model_below_its_reach_says_so(folder: Path) -> None:
    pixels = np.asarray(Image.open(folder / "coffee.png"))
    with pytest.raises(OutOfReach, match="too few"):
        Model("cdc-tiny", {}, "cpu").encode(pixels, 0.01)


def test_a_folder_is_searched_and_each_content_taken_once(folder: Path) -> None:
    (folder / "deeper").mkdir()
    (folder / "deeper" / "copy.png").write_bytes((folder / "coffee.png").read_bytes())
    Image.fromarray(data.chelsea()[:32, :32]).save(folder / "deeper" / "cat.jpg")
    Image.fromarray(data.chelsea()[:32, :32]).save(folder / ".hidden.jpg")
    (folder / "notes.txt").write_text("no picture")
    sources, notes = datasets.find([folder])
    assert [source.name for source in sources] == ["astronaut.png", "coffee.png", "deeper/cat.jpg"]
    assert not notes


def test_the_report_of_a_folder_in_it_is_not_measured(folder: Path) -> None:
    for _ in range(2):
        command = ["eval", str(folder), "--codec", "jpeg", "--bpp", "2", "--metrics", "psnr"]
        assert main([*command, "-o", str(folder / "report")]) == 0
        assert len(rows.read(folder / "report" / run.ROWS)) == 2


def test_what_cannot_be_read_is_left_out_of_a_folder_and_refused_by_name(folder: Path) -> None:
    broken = folder / "broken.png"
    broken.write_bytes((folder / "coffee.png").read_bytes()[:900])
    Image.new("RGBA", (20, 20), (1, 2, 3, 4)).save(folder / "clear.png")
    sources, notes = datasets.find([folder])
    assert len(sources) == 3
    assert len(notes) == 2
    assert notes[0].startswith("left out: cannot read")
    assert notes[1] == "clear.png is measured without its alpha plane"
    with pytest.raises(InputError, match="broken.png"):
        datasets.find([broken])


def test_pictures_of_the_same_name_are_told_apart(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(data.chelsea()[:32, :32]).save(other / "coffee.png")
    names = [source.name for source in datasets.find([folder, other])[0]]
    assert len(set(names)) == 3
    assert sum(name.endswith("coffee.png") for name in names) == 2


def test_a_larger_sample_contains_the_smaller(tmp_path: Path) -> None:
    for shade in range(12):
        Image.new("L", (8, 8), shade).save(tmp_path / f"{shade:02}.png")
    samples = [{s.name for s in datasets.find([tmp_path], sample=n)[0]} for n in (3, 6, 12, 50)]
    assert [len(sample) for sample in samples] == [3, 6, 12, 12]
    assert samples[0] < samples[1] < samples[2]


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_no_pictures_are_an_input_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=name):
        datasets.find([tmp_path / name])


@pytest.mark.parametrize(
    "name", ["a\u2028b.png", "<script>.png", "x" * 200 + ".png", "bad\udcff.png"]
)
def test_any_name_that_a_file_can_have_will_do(folder: Path, name: str) -> None:
    try:
        (folder / "coffee.png").rename(folder / name)
    except (OSError, UnicodeEncodeError):
        pytest.skip("no file can have that name here")
    for _ in range(2):
        assert evaluate(folder, "--codec", "jpeg", "--bpp", "2") == 0
    found = rows.read(folder.parent / "report" / run.ROWS)
    assert name in {row.image for row in found}
    assert len(found) == 2


def test_a_report_that_cannot_be_written_is_an_input_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = folder / "coffee.png" / "report"
    code = main(["eval", str(folder), "--codec", "jpeg", "--bpp", "2", "-o", str(report)])
    assert code == 3
    assert f"cannot write the report {report}" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals on Windows")
@pytest.mark.parametrize(("number", "jobs"), [(signal.SIGKILL, 1), (signal.SIGTERM, 2)])
def test_a_run_that_is_killed_ends_at_once_and_goes_on_the_next_time(
    folder: Path, number: int, jobs: int
) -> None:
    for row in range(2):
        Image.fromarray(data.coffee()[row : row + 96, 200:328]).save(folder / f"{row}.png")
    report = folder.parent / "report"
    command = [sys.executable, "-m", "cdcodec", "eval", str(folder), "--codec", "avif"]
    command += ["--bpp", "1,1.5,2,3", "--metrics", "psnr", "-o", str(report), "--jobs", str(jobs)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=ROOT)
    deadline = time.monotonic() + 60
    while not (some := len(rows.read(report / run.ROWS))) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(20) != 0
    before = (report / run.ROWS).read_bytes()
    assert 0 < some < 16
    assert subprocess.run(command, capture_output=True, cwd=ROOT, timeout=100).returncode == 0
    assert (report / run.ROWS).read_bytes().startswith(before.rpartition(b"\n")[0])
    assert len(rows.read(report / run.ROWS)) == 16


def test_kodak_is_known_by_its_checksums(folder: Path) -> None:
    (folder / "coffee.png").rename(folder / "kodim05.png")
    sources, _ = datasets.find([folder])
    assert datasets.impostors(sources) == ["kodim05.png"]
    assert datasets.described(sources) == "2 pictures"
    genuine = [dataclasses.replace(sources[0], name="x.png", sha256=datasets.KODAK["kodim05"])]
    assert datasets.impostors(genuine) == []
    assert datasets.described(genuine).startswith("Kodak, 1 of 24 pictures")
    assert len(set(datasets.KODAK.values())) == 24


def test_rows_survive_being_written(tmp_path: Path) -> None:
    row = Row("ä.png", "0" * 16, 3, 2, "webp", "1", 0.1, scores={"psnr": None, "ssim": 0.5})
    newer = dataclasses.replace(row, scores={"psnr": 30.0})
    with lines.appending(tmp_path / "rows") as append:
        append(rows.as_line(row))
        assert rows.read(tmp_path / "rows") == [row]
        append(rows.as_line(newer))
    assert rows.read(tmp_path / "rows") == [newer]


def test_scores_of_sets_are_computed_once(folder: Path, halving: Halving) -> None:
    plan = plan_for(folder, 1.0, 2.0)
    run.measure(plan)
    calls = []

    def differences(pairs: Iterable[tuple[Pixels, Pixels]]) -> dict[str, float | None]:
        calls.append([float(np.abs(a.astype(float) - b).mean()) for a, b in pairs])
        return {"difference": float(np.mean(calls[-1]))}

    def measured() -> dict[tuple[str, float], dict[str, float | None]]:
        found = run.wanted(plan)
        return whole.measure(plan.folder, found, plan.sources, {"d": differences})

    first = measured()
    assert first.keys() == {("halving", 1.0), ("halving", 2.0)}
    assert [len(call) for call in calls] == [2, 2]
    assert measured() == first
    assert len(calls) == 2
    halving.version = "2"
    run.measure(plan)
    measured()
    assert len(calls) == 4


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux starts anew")
def test_the_peak_of_memory_is_that_of_the_work_alone() -> None:
    # Pages straight from the system: the allocator may still hold as much that other tests freed.
    with memory.peak() as large, mmap.mmap(-1, 60_000_000) as pages:
        pages[:: mmap.PAGESIZE] = b"x" * len(pages[:: mmap.PAGESIZE])
    with memory.peak() as small:
        pass
    assert large.bytes is not None
    assert small.bytes is not None
    assert large.bytes - small.bytes > 40_000_000
