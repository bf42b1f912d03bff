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

from cdcodec import api, image
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


def run_shell(
    name: str, *args: Path | str, stdin: bytes = b"", folder: Path
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["sh", str(EXAMPLES / name), *args],
        input=stdin,
        capture_output=True,
        env=command_on_path(folder),
        timeout=600,
        check=False,
    )


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
    *_, opened, following = said.splitlines()
    out = tmp_path / "out"
    assert opened == f"Open {out / 'coffee-decoded.png'} beside {out / 'coffee.png'}."
    told = re.fullmatch(
        r"Next, with a photograph of your own: (\S+) encode PHOTO\.jpg --bpp 0\.15", following
    )
    assert told is not None
    assert Path(told[1]).name == "cdcodec"
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
    done = run_shell("folder.sh", str(photos), str(target), "0.3", folder=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert api.info(target / "one.png.cdc").bpp <= 0.3
    assert (target / "two.png.cdc").read_bytes() == b"done before"


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_folder_takes_every_suffix_in_any_case_and_names_what_it_leaves_out(
    tmp_path: Path,
) -> None:
    photos, target = tmp_path / "my photos", tmp_path / "compressed"
    photos.mkdir()
    readable = {
        suffix for suffix, format in Image.registered_extensions().items()
        if format in image.READABLE
    }  # fmt: skip
    taken = {f"a{suffix}" for suffix in readable} | {"B.JPG", "c d.Tiff", "-e.PNG", "f.g.JpEg"}
    left_out = {"notes.txt", "photo.heic", "jpg", "photo.jpg~"}
    for name in taken | left_out:
        (photos / name).write_bytes(b"x")
    (photos / "folder.png").mkdir()
    notes = tmp_path / "notes"
    script = '#!/bin/sh\necho "$2" >> "$NOTES"\nfor last; do :; done\n: > "$last"\n'
    environment = command_on_path(tmp_path)
    (tmp_path / "commands" / "cdcodec").write_text(script, encoding="utf-8")
    done = subprocess.run(
        ["sh", EXAMPLES / "folder.sh", photos, target],
        env={**environment, "NOTES": str(notes)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert set(notes.read_text(encoding="utf-8").splitlines()) == {
        str(photos / name) for name in taken
    }
    assert {path.name for path in target.iterdir()} == {f"{name}.cdc" for name in taken}
    reason = "is left out: cdcodec reads no pictures with its suffix"
    assert set(done.stderr.splitlines()) == {f"{photos / name} {reason}" for name in left_out}


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_folder_goes_on_after_a_damaged_photograph_and_refuses_what_is_no_folder(
    photo: Path, tmp_path: Path
) -> None:
    photos, target = tmp_path / "photos", tmp_path / "compressed"
    photos.mkdir()
    (photos / "a.JPG").write_bytes(b"damaged")
    shutil.copy(photo, photos / "b.PNG")
    done = run_shell("folder.sh", photos, target, "0.3", folder=tmp_path)
    assert done.returncode == 1
    assert f"cannot read {photos / 'a.JPG'}".encode() in done.stderr
    assert [path.name for path in target.iterdir()] == ["b.PNG.cdc"]
    done = run_shell("folder.sh", tmp_path / "none", target, folder=tmp_path)
    assert (done.returncode, done.stderr) == (2, f"{tmp_path / 'none'} is not a folder\n".encode())
    done = run_shell("folder.sh", photos, folder=tmp_path)
    usage = b"usage: sh examples/folder.sh PHOTOS COMPRESSED [BPP]\n"
    assert (done.returncode, done.stderr) == (2, usage)


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_pipeline_gives_the_photograph_back_on_stdout(photo: Path, tmp_path: Path) -> None:
    done = run_shell("pipeline.sh", stdin=photo.read_bytes(), folder=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    received = tmp_path / "received.png"
    received.write_bytes(done.stdout)
    with Image.open(received) as picture:
        assert picture.size == (256, 192)
