"""Every file of examples/ runs and does what it says."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from cdcodec import api
from tests.shell import command_on_path

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "chelsea.png"
    Image.fromarray(skimage.data.chelsea()).crop((96, 32, 352, 224)).save(path)
    return path


def run_python(monkeypatch: pytest.MonkeyPatch, name: str, *args: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def run_shell(name: str, *args: Path | str, stdin: bytes, folder: Path) -> bytes:
    done = subprocess.run(
        ["sh", str(EXAMPLES / name), *args],
        input=stdin,
        capture_output=True,
        env=command_on_path(folder),
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_every_example_is_run_by_a_test_here() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    for path in EXAMPLES.iterdir():
        if path.is_file():
            assert f'"{path.name}"' in here, f"no test runs {path.name}"


def test_demo_compresses_the_photograph_and_says_how_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_python(monkeypatch, "demo.py", tmp_path / "out", "--bpp", 0.15, "--steps", 1)
    said = capsys.readouterr().out
    pixels = 600 * 400
    assert 8 * (tmp_path / "out" / "coffee.cdc").stat().st_size <= 0.15 * pixels
    for name in ("coffee.png", "coffee.cdc", "coffee-decoded.png"):
        path = tmp_path / "out" / name
        assert str(path) in said
        assert f"{path.stat().st_size:,} bytes" in said
    with Image.open(tmp_path / "out" / "coffee-decoded.png") as decoded:
        assert decoded.size == (600, 400)


def test_demo_takes_the_smallest_file_if_the_target_is_smaller_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_python(monkeypatch, "demo.py", tmp_path, "--bpp", 0.001, "--steps", 1)
    assert "taking the smallest file" in capsys.readouterr().out
    assert api.info(tmp_path / "coffee.cdc").point == 0


def test_sizes_reports_every_rate_and_goes_on_after_an_impossible_one(
    photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_python(monkeypatch, "sizes.py", photo, 0.001, 0.2, 0.3)
    impossible, first, second = capsys.readouterr().out.splitlines()
    assert re.match(r"0\.001 asked, 6 bytes ", impossible)
    assert re.match(r"0\.200 asked, 0\.\d{4} used, [\d,]+ bytes \(z .*, y .*\)", first)
    assert re.match(r"0\.300 asked, 0\.\d{4} used, ", second)


def seeds_compared(
    model: str,
    photo: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> tuple[list[str], Image.Image]:
    """Run invented.py on a file of a model; return what it says and what it paints."""
    compressed, target = folder / "photo.cdc", folder / "differences.png"
    compressed.write_bytes(api.encode(photo, bpp=0.15, model=model).data)
    run_python(monkeypatch, "invented.py", compressed, target)
    with Image.open(target) as painted:
        painted.load()
    assert painted.mode == "L"
    assert painted.size == (256, 192)
    return capsys.readouterr().out.splitlines(), painted


@pytest.mark.parametrize("model", ["rdeic-nano", "diffeic-nano"])
def test_invented_paints_where_seeds_differ(
    model: str,
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (said,), painted = seeds_compared(model, photo, tmp_path, monkeypatch, capsys)
    differ = re.search(r"4 seeds differ by (\d+\.\d\d) of 255 on average", said)
    assert differ is not None
    assert float(differ[1]) > 0.5  # measured: 1.5 and 1.6
    assert painted.getextrema()[1] > 100


def test_invented_does_not_take_a_picture_without_chance_for_a_true_one(
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said, painted = seeds_compared("palette-nano", photo, tmp_path, monkeypatch, capsys)
    assert "4 seeds differ by 0.00 of 255" in said[0]
    assert said[1].startswith("palette-nano draws nearly the same picture for every seed, which ")
    assert painted.getextrema() == (0, 0)


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_folder_compresses_all_photographs_and_leaves_what_is_there(
    photo: Path, tmp_path: Path
) -> None:
    photos, target = tmp_path / "my photos", tmp_path / "compressed"
    photos.mkdir()
    shutil.copy(photo, photos / "one.png")
    shutil.copy(photo, photos / "two.png")
    target.mkdir()
    (target / "two.png.cdc").write_bytes(b"done before")
    run_shell("folder.sh", str(photos), str(target), "0.3", stdin=b"", folder=tmp_path)
    assert api.info(target / "one.png.cdc").bpp <= 0.3
    assert (target / "two.png.cdc").read_bytes() == b"done before"


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_pipeline_gives_the_photograph_back_on_stdout(photo: Path, tmp_path: Path) -> None:
    png = run_shell("pipeline.sh", stdin=photo.read_bytes(), folder=tmp_path)
    received = tmp_path / "received.png"
    received.write_bytes(png)
    with Image.open(received) as image:
        assert image.size == (256, 192)
