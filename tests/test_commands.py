"""`cdcodec eval --codec NAME=cmd:…` measures a codec that is given as two commands."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image
from skimage import data

from cdcodec.cli.__main__ import main
from cdcodec.errors import InputError
from cdcodec.evaluation import codecs, commands
from cdcodec.evaluation.contender import Unavailable

ENCODER = """
import io, sys
from PIL import Image
source, target, limit = sys.argv[1:]
image, limit = Image.open(source), float(limit)
assert image.format == "PNG"
for quality in range(95, -1, -1):
    buffer = io.BytesIO()
    image.save(buffer, "webp", quality=quality, method=0)
    if 8 * len(buffer.getvalue()) <= limit * image.width * image.height:
        break
open(target, "wb").write(buffer.getvalue())
"""
DECODER = """
import sys
from PIL import Image
Image.open(sys.argv[1]).crop((0, 0, *map(int, sys.argv[3:]))).save(sys.argv[2], "png")
"""
PYTHON = shlex.quote(sys.executable)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my encoder.py").write_text(ENCODER, encoding="utf-8")
    Path("decoder.py").write_text(DECODER, encoding="utf-8")
    Image.fromarray(data.coffee()[100:164, 200:296]).save("coffee.png")


def specification(decoder: str = "decoder.py {in} {out} 96 64") -> str:
    return f"mine=cmd:{PYTHON} 'my encoder.py' {{in}} {{out}} {{bpp}},{PYTHON} {decoder}"


def evaluate(*arguments: str) -> int:
    return main(["eval", "coffee.png", "--metrics", "psnr", "--bpp", "2", *arguments])


def test_two_commands_are_a_codec_like_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("--codec", specification(), "--codec", "webp:method=0", "--json") == 0
    mine, webp = json.loads(capsys.readouterr().out)["points"]
    assert mine["curve"] == "mine"
    assert 1.8 <= mine["bpp"] <= 2
    assert mine["scores"]["psnr"] == pytest.approx(webp["scores"]["psnr"], abs=1)
    (file,) = Path("report", "files", "mine", "2").iterdir()
    assert file.read_bytes()[8:12] == b"WEBP"
    assert mine["bpp"] == pytest.approx(8 * file.stat().st_size / (96 * 64))


def test_a_target_that_the_commands_miss_is_out_of_reach(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert evaluate("--codec", specification(), "--bpp", "0.01") == 0
    assert "mine, 0.01 bpp: out of reach" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("decoder", "said"),
    [
        ("decoder.py {in} {out} 95 64", "the decoder gave 95x64 pixels, not those of the picture"),
        ("-c 'import sys; sys.exit(\"no luck\")' {in} {out}", "failed: no luck"),
        ("-c '' {in} {out}", "mine reported success, but did not write the file {out}"),
    ],
)
def test_what_goes_wrong_in_a_command_is_a_failed_measurement(
    decoder: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("--codec", specification(decoder)) == InputError.exit_code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("=cmd:a {in} {out} {bpp},b {in} {out}", "is no plain name of a codec"),
        ("webp=cmd:sh {in} {out} {bpp},sh {in} {out}", "webp is the name of another codec"),
        ("mine=cmd:sh {in} {out} {bpp}", "mine needs a command with"),
        ("mine=cmd:sh {in} {out},sh {in} {out}", "mine needs a command with"),
        ("mine=cmd:sh {in} {out} {bpp},sh {in}", "mine needs a command with"),
        ("mine=cmd:sh {in} {out} {rate},sh {in} {out}", "can't have {rate}"),
        ("mine=cmd:sh {in} {out} {bpp} 1,2,sh {in} {out}", "not clear at which comma"),
        ("mine=cmd:sh '{in} {out} {bpp},sh {in} {out}", "quotes in the commands of mine"),
    ],
)
def test_what_is_no_pair_of_commands_says_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        codecs.create(text)
    assert said in str(caught.value)
    assert caught.value.hint


def test_commas_within_arguments_are_no_end_of_the_command() -> None:
    codec = commands.Commands("mine=cmd:sh -p 1,2 {in} {out} {size},sh {in} {out}")
    assert codec.encoder == ["sh", "-p", "1,2", "{in}", "{out}", "{size}"]
    assert codec.decoder == ["sh", "{in}", "{out}"]


def test_quotes_that_got_past_the_shell_are_taken_away() -> None:
    codec = commands.Commands("mine=cmd:'sh -x {in} {out} {bpp}','sh {in} {out}'")
    assert codec.encoder == ["sh", "-x", "{in}", "{out}", "{bpp}"]
    assert codec.decoder == ["sh", "{in}", "{out}"]


def test_a_program_that_is_missing_leaves_the_codec_out() -> None:
    with pytest.raises(Unavailable, match="no-such-program is not on PATH"):
        codecs.create("mine=cmd:no-such-program {in} {out} {bpp},sh {in} {out}")


def test_another_script_under_the_same_name_is_another_version() -> None:
    before = codecs.create(specification()).version
    assert codecs.create(specification()).version == before
    with Path("decoder.py").open("a", encoding="utf-8") as script:
        script.write("# changed\n")
    assert codecs.create(specification()).version != before


def test_a_codec_that_is_unknown_is_told_how_others_are_named() -> None:
    with pytest.raises(InputError, match="no codec is called bpg") as caught:
        codecs.create("bpg")
    assert str(caught.value.hint).endswith(f"any other codec is {commands.HOW}")


def test_metrics_left_out_say_which_command_adds_their_weights(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["eval", "coffee.png", "--bpp", "2", "--codec", "webp"]) == 0
    said = capsys.readouterr().err
    assert (
        "note: lpips is left out: its weights are not here; `cdcodec weights add lpips-squeeze "
        "FILE` adds them, and `cdcodec weights show lpips-squeeze` says from where\n"
    ) in said
