"""Which files the commands write, without -o, with -o and with a second name; real codecs."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from skimage import data

from cdcodec import api, image
from cdcodec.cli import files
from cdcodec.cli.__main__ import main

FOLDER = "in a shell: for file in FOLDER/*"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with two pictures, and a compressed file without its original."""
    monkeypatch.chdir(tmp_path)
    picture = Image.fromarray(data.coffee()).resize((96, 64))
    picture.save("img.png")
    picture.save("other.JPG")
    compressed = api.encode(picture, model="cdc-tiny", quality=50, steps=1)
    Path("small.cdc").write_bytes(compressed.data)
    Path("there").mkdir()
    return tmp_path


def names(path: str = ".") -> set[str]:
    return {each.name for each in Path(path).iterdir()}


def shown(path: str) -> tuple[str | None, tuple[int, int]]:
    with Image.open(path) as img:
        return img.format, img.size


# ---- names that the commands choose


def test_the_two_commands_that_everybody_types_give_a_second_picture(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Image.fromarray(data.coffee()).crop((0, 0, 384, 256)).save("img.png")
    original = Path("img.png").read_bytes()
    assert main("encode img.png -o img.cdc --bpp 0.05".split()) == 0
    capsys.readouterr()
    assert main("decode img.cdc --steps 5".split()) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "cdcodec: note: img.png exists already and is kept",
        "img.decoded.png: 384x256, cdc-nano with ddim, 5 steps, seed 0",
    ]
    assert shown("img.decoded.png") == ("PNG", (384, 256))
    assert Path("img.png").read_bytes() == original


def test_decode_again_and_again_keeps_every_picture(capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(4):
        assert main(["decode", "small.cdc", "--seed", str(seed)]) == 0
    expected = ["small.png", "small.decoded.png", "small.decoded-2.png", "small.decoded-3.png"]
    assert len({Path(name).read_bytes() for name in expected}) == 4
    said = [line for line in capsys.readouterr().err.splitlines() if "note" not in line]
    assert [line.partition(":")[0] for line in said] == expected


def test_a_free_name_needs_no_note(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode", "small.cdc"]) == 0
    assert "note" not in capsys.readouterr().err
    assert "small.png" in names()


@pytest.mark.parametrize("directory", [".", "./", "there"])
def test_decode_into_a_directory_keeps_what_is_there(directory: str) -> None:
    Path(directory, "small.png").write_bytes(b"precious")
    assert main(["decode", "small.cdc", "-o", directory]) == 0
    assert Path(directory, "small.png").read_bytes() == b"precious"
    assert shown(str(Path(directory, "small.decoded.png")))[0] == "PNG"


def test_every_format_has_its_own_free_name() -> None:
    Path("small.webp").write_bytes(b"precious")
    assert main(["decode", "small.cdc", "--format", "webp"]) == 0
    assert main(["decode", "small.cdc", "--format", "jpeg"]) == 0
    assert shown("small.decoded.webp")[0] == "WEBP"
    assert shown("small.jpg")[0] == "JPEG"
    assert Path("small.webp").read_bytes() == b"precious"


def test_overwrite_replaces_a_decoded_picture_and_never_the_original() -> None:
    Path("small.png").write_bytes(b"the original")
    Path("small.decoded.png").write_bytes(b"an earlier one")
    assert main(["decode", "small.cdc", "--overwrite"]) == 0
    assert Path("small.png").read_bytes() == b"the original"
    assert shown("small.decoded.png")[0] == "PNG"
    assert "small.decoded-2.png" not in names()
    assert main(["decode", "small.cdc", "-o", "small.png", "--overwrite"]) == 0
    assert shown("small.png")[0] == "PNG"


def test_a_name_that_was_given_is_never_changed(capsys: pytest.CaptureFixture[str]) -> None:
    Path("small.png").write_bytes(b"precious")
    for output in (["-o", "small.png"], ["small.png"]):
        assert main(["decode", "small.cdc", *output]) == 3
        assert "small.png exists already" in capsys.readouterr().err
    assert Path("small.png").read_bytes() == b"precious"
    assert "small.decoded.png" not in names()


def test_a_compressed_file_with_a_pictures_name_is_not_its_own_output() -> None:
    os.rename("small.cdc", "small.png")
    before = Path("small.png").read_bytes()
    assert main(["decode", "small.png"]) == 0
    assert Path("small.png").read_bytes() == before
    assert shown("small.decoded.png")[0] == "PNG"


def test_transcode_without_a_name_leaves_the_larger_file_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main("encode img.png large.cdc --model palette-tiny -q 100".split()) == 0
    before = Path("large.cdc").read_bytes()
    capsys.readouterr()
    for _ in range(2):
        assert main("transcode large.cdc -q 20".split()) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("large.transcoded.cdc: 96x64, ")
    assert said[1].startswith("large.transcoded-2.cdc: 96x64, ")
    assert Path("large.cdc").read_bytes() == before
    assert Path("large.transcoded.cdc").stat().st_size < len(before)


def test_encode_refuses_a_taken_name_as_its_files_are_known_by_them() -> None:
    assert main("encode img.png --model cdc-tiny -q 50".split()) == 0
    before = Path("img.cdc").read_bytes()
    assert main("encode img.png --model cdc-tiny -q 10".split()) == 3
    assert Path("img.cdc").read_bytes() == before


def places(count: int, suffix: str, aside: str, overwrite: bool = False) -> list[str]:
    found = []
    for _ in range(count):
        target = files.target("img.cdc", None, suffix, overwrite=overwrite, aside=aside)
        with target.open() as fp:
            fp.write(b"x")
        found.append(target.name)
    return found


def test_an_enhanced_picture_is_numbered_or_replaced() -> None:
    suffix = ".enhanced.png"
    numbered = ["img.enhanced.png", "img.enhanced-2.png", "img.enhanced-3.png"]
    assert places(3, suffix, "enhanced") == numbered
    assert places(2, suffix, "enhanced", overwrite=True) == ["img.enhanced.png"] * 2


def test_names_that_come_during_the_work_are_kept_too() -> None:
    target = files.target("small.cdc", None, ".png", overwrite=False, aside="decoded")
    with target.open() as fp:
        Path("small.png").write_bytes(b"precious")
        Path("small.decoded.png").write_bytes(b"precious")
        fp.write(b"mine")
    assert target.name == "small.decoded-2.png"
    assert Path("small.decoded-2.png").read_bytes() == b"mine"
    assert Path("small.png").read_bytes() == b"precious"
    assert target.kept == ["small.png", "small.decoded.png"]


def test_outputs_of_the_same_name_at_the_same_time_all_arrive() -> None:
    one, other = (
        files.target("small.cdc", None, ".png", overwrite=True, aside="decoded") for _ in range(2)
    )
    with one.open() as first, other.open() as second:
        first.write(b"one")
        second.write(b"other")
    assert {Path(each.name).read_bytes() for each in (one, other)} == {b"one", b"other"}
    assert {one.name, other.name} == {"small.png", "small.decoded.png"}


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_name_is_given_back_if_the_file_does_not_get_there(
    monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def fail(*_paths: object) -> None:
        raise failure

    before = names()
    monkeypatch.setattr(os, "replace", fail)
    assert main(["decode", "small.cdc", "--quiet"]) in (3, 130)
    assert names() == before


# ---- names that stand behind the input


@pytest.mark.parametrize("name", ["out.cdc", "out.CDC", "there/out.cdc"])
def test_encode_takes_a_second_name_that_ends_in_cdc(name: str) -> None:
    assert main(["encode", "img.png", name, "--model", "cdc-tiny", "-q", "50"]) == 0
    assert api.info(name).width == 96


@pytest.mark.parametrize("name", ["out.png", "out.JPG", "there/out.webp", "x.decoded.tiff"])
def test_decode_takes_a_second_name_that_is_a_pictures(name: str) -> None:
    assert main(["decode", "small.cdc", name]) == 0
    assert shown(name)[1] == (96, 64)


def test_a_second_name_may_be_stdout(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["decode", "small.cdc", "-"]) == 0
    with Image.open(io.BytesIO(capsysbinary.readouterr().out)) as img:
        assert img.size == (96, 64)

    class Stdin:
        buffer = io.BytesIO(Path("img.png").read_bytes())

        @staticmethod
        def isatty() -> bool:
            return False

    monkeypatch.setattr(sys, "stdin", Stdin)
    assert main("encode - out.cdc --model cdc-tiny -q 50".split()) == 0
    assert api.info("out.cdc").width == 96


def test_enhance_and_transcode_take_a_second_name_that_is_no_file_yet() -> None:
    assert main("enhance img.png out.png --steps 0 --model cgdm-tiny".split()) == 0
    assert shown("out.png") == ("PNG", (96, 64))
    assert main("encode img.png large.cdc --model palette-tiny -q 100".split()) == 0
    assert main("transcode large.cdc out.cdc -q 20".split()) == 0
    before = Path("out.cdc").read_bytes()
    assert main("transcode large.cdc out.cdc -q 20 --overwrite".split()) == 2  # may be an input
    assert main("enhance img.png other.JPG --overwrite".split()) == 2
    assert Path("out.cdc").read_bytes() == before


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (
            "encode img.png other.JPG",
            "encode takes one file at a time, not img.png and other.JPG",
            "examples/folder.sh compresses a folder; -o names the output",
        ),
        (
            "encode img.png other.JPG small.cdc",
            "encode takes one file at a time, not 3",
            "examples/folder.sh compresses a folder; -o names the output",
        ),
        (
            "encode img.png there",
            "encode takes one file at a time, not img.png and there",
            "examples/folder.sh compresses a folder; -o names the output",
        ),
        (
            "decode small.cdc no.cdc",
            "decode takes one file at a time, not small.cdc and no.cdc",
            f'{FOLDER}.cdc; do cdcodec decode "$file"; done; -o names the output',
        ),
        (
            "decode small.cdc there",
            "decode takes one file at a time, not small.cdc and there",
            f'{FOLDER}.cdc; do cdcodec decode "$file"; done; -o names the output',
        ),
        (
            "encode img.png a.cdc -o b.cdc",
            "the output is named twice, a.cdc and -o b.cdc",
            "see cdcodec encode --help",
        ),
    ],
)
def test_several_inputs_or_outputs_are_wrong_usage_with_a_way(
    capsys: pytest.CaptureFixture[str], args: str, message: str, hint: str
) -> None:
    before = names()
    assert main(args.split()) == 2
    assert capsys.readouterr().err == f"cdcodec: error: {message}\nhint: {hint}\n"
    assert names() == before


@pytest.mark.parametrize(
    "args",
    ["decode small.cdc small.cdc", "encode img.png img.png", "transcode small.cdc small.cdc"],
)
def test_one_name_as_input_and_output_is_refused(
    capsys: pytest.CaptureFixture[str], args: str
) -> None:
    name = args.split()[1]
    before = Path(name).read_bytes()
    assert main([*args.split(), "--overwrite"]) == 3
    assert capsys.readouterr().err == (
        f"cdcodec: error: {name} is both input and output\nhint: name another with -o\n"
    )
    assert Path(name).read_bytes() == before


@pytest.mark.parametrize("command", ["encode img.png", "transcode small.cdc -q 5"])
def test_a_second_name_of_a_picture_is_refused_by_its_suffix(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    before = names()
    assert main([*command.split(), "x.webp"]) == 3
    assert capsys.readouterr().err == (
        "cdcodec: error: cannot write x.webp: .webp is for pictures, and this is a compressed "
        "file\nhint: name it x.cdc\n"
    )
    assert names() == before


@pytest.mark.parametrize(
    ("args", "closed", "code", "said"),
    [
        ("encode img.png -", "stdout", 3, "cannot write stdout: it is closed\nhint: name a file"),
        ("encode - out.cdc", "stdin", 3, "cannot read stdin: it is closed\nhint: name a file"),
        ("info small.cdc", "stdout", 0, ""),
        ("info small.cdc", "stderr", 0, ""),
        ("encode img.png out.cdc --model cdc-tiny -q 50", "stderr", 0, ""),
        ("encode none.png", "stderr", 3, ""),
    ],
)
def test_a_closed_standard_stream_is_no_bug(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: str,
    closed: str,
    code: int,
    said: str,
) -> None:
    monkeypatch.setattr(sys, closed, None)
    assert main(args.split()) == code
    assert capsys.readouterr().err.startswith(f"cdcodec: error: {said}" if said else "")
    assert Path("out.cdc").exists() == (code == 0 and "out.cdc" in args)


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("encode", "examples/folder.sh compresses a folder"),
        ("decode", f'{FOLDER}.cdc; do cdcodec decode "$file"; done'),
        ("enhance", f'{FOLDER}.jpg; do cdcodec enhance "$file"; done'),
        ("transcode -q 9", f'{FOLDER}.cdc; do cdcodec transcode --bpp 0.05 "$file"; done'),
    ],
)
def test_a_folder_as_input_is_refused_with_a_way(
    capsys: pytest.CaptureFixture[str], command: str, hint: str
) -> None:
    assert main([*command.split(), "there"]) == 3
    assert capsys.readouterr().err == (
        f"cdcodec: error: cannot read there: it is a directory\nhint: {hint}\n"
    )


# ---- suffixes


@pytest.mark.parametrize("name", ["x.webp", "x.PNG", "x.tar.jxl", "there/x.heic"])
@pytest.mark.parametrize("command", ["encode img.png", "transcode small.cdc -q 5"])
def test_a_compressed_file_cannot_have_the_name_of_a_picture(
    capsys: pytest.CaptureFixture[str], command: str, name: str
) -> None:
    Path(name).write_bytes(b"precious")
    assert main([*command.split(), "-o", name, "--overwrite"]) == 3
    suffix = Path(name).suffix
    assert capsys.readouterr().err == (
        f"cdcodec: error: cannot write {name}: {suffix} is for pictures, and this is a compressed "
        f"file\nhint: name it {Path(name).with_suffix('.cdc')}\n"
    )
    assert Path(name).read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["x", "x.bin", "x.cdc.tmp", "photo.v2"])
def test_any_other_name_is_the_users_business(name: str) -> None:
    assert main(["encode", "img.png", "-o", name, "--model", "cdc-tiny", "-q", "50"]) == 0
    assert api.info(name).width == 96


def test_suffixes_of_all_pictures_that_can_be_read_are_known() -> None:
    registered: Callable[[], dict[str, str]] = Image.registered_extensions
    readable = {suffix for suffix, format in registered().items() if format in image.READABLE}
    assert readable <= image.PICTURE_SUFFIXES
    assert all(
        suffix == suffix.lower() and suffix.startswith(".") for suffix in image.PICTURE_SUFFIXES
    )
    assert ".cdc" not in image.PICTURE_SUFFIXES
